"""Recipes: whole experiments as short readable files."""
