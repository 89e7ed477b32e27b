"""Trained networks: kept in a folder, aligned, and compared with predicted parameters."""
