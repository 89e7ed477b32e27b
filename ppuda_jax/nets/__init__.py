"""Target networks: every operation once, and Flax modules made of them."""
