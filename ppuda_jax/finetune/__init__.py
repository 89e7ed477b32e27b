"""Training networks further, from predicted parameters and from others (paper, section 5.3)."""
