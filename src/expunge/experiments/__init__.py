"""Whole experiments as short readable files."""
