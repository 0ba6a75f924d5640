"""Checkpoints for other runtimes, and their upload to the hub."""
