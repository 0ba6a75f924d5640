"""Judging a model by a task: metrics with intervals, rows that are kept apart, and the accuracy guard."""
