"""Releases: a run as it is handed on, in a folder or on a hub, with a model card and nothing else of the run."""
