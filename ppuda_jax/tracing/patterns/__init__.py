"""What the vocabulary recognises in data: norms, gates, attention, tokens, pools."""
