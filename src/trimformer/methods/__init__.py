"""Pruning methods: one paper, one file."""
