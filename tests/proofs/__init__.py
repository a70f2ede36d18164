"""Batch jobs at full size, killed on the way, and whether everything adds up. Not tests: they take minutes."""
