"""Comparisons: methods × budgets × tasks × seeds from one file, resumable cell by cell, as tables and plots."""
