"""Statistics -> scores, curves and clusters -> masks. Pure functions of tensors."""
