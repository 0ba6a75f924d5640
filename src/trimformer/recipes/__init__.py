"""Recipes: methods that train, one file each, found by `trimformer.plugins`."""
