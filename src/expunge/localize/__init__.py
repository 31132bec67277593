"""Localization: which units of a model are tied to the forget set, and where a selection of them is."""
