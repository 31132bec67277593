"""Attacks: does the knowledge come back when a finished model is trained a little, or rounded?"""
