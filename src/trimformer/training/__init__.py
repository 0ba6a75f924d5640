"""Fine-tuning a model, pruned or not, and P-pruning: prune a pre-trained model, then fine-tune it."""
