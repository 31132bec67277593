"""Attributions: one file a way of scoring units."""
