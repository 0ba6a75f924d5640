"""A trimmed tokenizer, made as transformers would read it from a folder: all files that have ids follow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimformer.errors import UnsupportedModel
from trimformer.model.checkpoint import load_tokenizer
from trimformer.model.claims import scratch_folder
from trimformer.vocabulary.tokenizer_file import TokenizerFile, trimmed

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
BY_ID = "added_tokens_decoder"
"""Field of the settings that lists added tokens by their ids."""
OF_ALL_TOKENS = ("vocab*", "merges*", "*.model", "added_tokens.json", "*.tiktoken", "spiece*", "sentencepiece*")
"""Patterns of files in which other programs look for all the tokens of the dense model."""


def read_file(tokenizer: PreTrainedTokenizerBase) -> TokenizerFile:
    """Read the content of a tokenizer's `tokenizer.json`.

    Raises:
        UnsupportedModel: it has none, or one of another kind.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        raise UnsupportedModel(
            f"{type(tokenizer).__name__} is a tokenizer without a tokenizer.json: only fast tokenizers can be trimmed; "
            "convert it first, or leave the vocabulary as it is"
        )
    return TokenizerFile(json.loads(backend.to_str()))


def with_tokens(
    tokenizer: PreTrainedTokenizerBase, file: TokenizerFile, order: Sequence[int], config: Any
) -> PreTrainedTokenizerBase:
    """Make a tokenizer that has some of the tokens only; the one given stays as it is.

    It is written to a folder and read from there, changed, written and read again: it is what a saved one will be.

    Args:
        tokenizer: with all tokens.
        file: its `tokenizer.json`.
        order: ids to keep; the new id of each is its place.
        config: of the model, which has a say in the tokenizer's class.

    Raises:
        CheckpointError: transformers cannot read what was made.
    """
    new = {old: place for place, old in enumerate(order)}

    def rewrite(folder: Path) -> None:
        for stale in (each for pattern in OF_ALL_TOKENS for each in folder.glob(pattern)):
            stale.unlink()
        (folder / TOKENIZER).write_text(json.dumps(trimmed(file, order), ensure_ascii=False), encoding="utf-8")
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if BY_ID in settings:
            settings[BY_ID] = {str(new[int(old)]): token for old, token in settings[BY_ID].items()}
        (folder / SETTINGS).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")

    made = _by_way_of_a_folder(_by_way_of_a_folder(tokenizer, config, rewrite), config)
    made.name_or_path = tokenizer.name_or_path
    return made


def _by_way_of_a_folder(
    tokenizer: PreTrainedTokenizerBase, config: Any, change: Callable[[Path], None] = lambda _: None
) -> PreTrainedTokenizerBase:
    with scratch_folder() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        change(folder)
        return load_tokenizer(str(folder))
