"""Attacks: does what a model forgot come out again, more than from a model that never knew it?"""
