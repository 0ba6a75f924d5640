"""Rows from anywhere -> encoded rows -> padded batches."""
