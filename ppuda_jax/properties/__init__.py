"""What networks will be worth, read off their embeddings (paper, section 5.4)."""
