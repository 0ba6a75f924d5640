"""What a stored result says: the report page, the model card, and the pictures and words that they share."""
