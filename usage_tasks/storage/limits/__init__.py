"""Levels of spending limits: which were crossed, and the standing of each account."""
