"""Costs of units: one cost, one file."""
