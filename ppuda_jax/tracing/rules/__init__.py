"""What each primitive does to the description of a value, by family."""
