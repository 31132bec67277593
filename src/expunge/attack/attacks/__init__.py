"""Attacks by name: each takes a finished model, leaves it as it was, and says what came out of it, fact by fact."""
