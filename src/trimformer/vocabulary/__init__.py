"""Vocabulary: keep the tokens that some texts need, in tokenizer and embeddings alike, and prove that it is so."""
