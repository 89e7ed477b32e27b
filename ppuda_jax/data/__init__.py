"""Images and endless meta-batches of architectures."""
