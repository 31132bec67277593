"""Comparing several models: trade-off curves, areas under them, mixing."""
