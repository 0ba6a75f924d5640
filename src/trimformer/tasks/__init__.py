"""Tasks: where rows come from, how they are encoded, how a model is judged."""
