"""Where the sublayers of each model family are: data only, one file a layout."""
