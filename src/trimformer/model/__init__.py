"""A model as sites: read, mask, cut, place, save and load it."""
