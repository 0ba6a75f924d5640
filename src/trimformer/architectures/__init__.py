"""Descriptions of model families, which say where their sublayers are: data only, one file a layout."""
