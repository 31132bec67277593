"""Low-rank adapters: one file each, found by name; each puts its factors on a model and says what it found."""
