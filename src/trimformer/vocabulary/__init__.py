"""Vocabulary: keep the tokens that somebody's texts need, in tokenizer and embeddings alike, and prove that it is so."""
