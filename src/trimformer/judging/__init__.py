"""A task around a model: metrics with intervals, rows kept apart, the guard."""
