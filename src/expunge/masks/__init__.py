"""Masks and the scores that they are selected from."""
