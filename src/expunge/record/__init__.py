"""Erasure records: what was erased, what was tried against it, and whether the files are still those."""
