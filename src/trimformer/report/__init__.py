"""Reports of a result: terminal tables, the report page, the model card, and the pictures and words that they share."""
