"""Talking to models: one prompt, the answers of several models side by side."""
