"""Run a model and look inside: what is summed, what it predicts, how long it takes."""
