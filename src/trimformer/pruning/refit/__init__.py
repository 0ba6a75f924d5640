"""Repair what is left: least squares, the walk from the bottom up, rescaling."""
