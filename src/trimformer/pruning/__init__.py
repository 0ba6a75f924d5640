"""Decide what to remove, cut it, and repair what is left."""
