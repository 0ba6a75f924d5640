"""Which tokens stay: those that texts need, and those without which the tokenizer would split these texts otherwise.

- WordPiece takes the longest token that fits. Where it took a token, no longer one fitted, and none does with fewer
  tokens.
- Unigram takes the split whose scores sum highest. It stays the highest among fewer, as long as the penalty of an
  unknown character stays: that is ten below the lowest score, so the token with the lowest score stays.
- BPE merges the neighbours whose merge comes first, until none applies. Every merge on the way to a kept token stays,
  with its parts; merges that are left out applied nowhere in these texts.

A word that was unknown as a whole may become known with fewer tokens: for that, and for whatever else is not thought
of, `parts_of_words` gives the tokens without which a word cannot be split otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from tokenizers import pre_tokenizers

from trimformer.vocabulary.tokenizer_file import Merge, TokenizerFile, named_ids

BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def frequent(rows: Iterable[Sequence[int]], minimum_count: int) -> set[int]:
    """List the ids that occur at least so often in some encoded texts."""
    counts = Counter(index for row in rows for index in row)
    return {index for index, count in counts.items() if count >= minimum_count}


def always_kept(file: TokenizerFile, seen: Iterable[int] | None = None) -> set[int]:
    """List the ids that stay whatever the texts are: added, special, byte and single-character tokens.

    Args:
        file: all tokens.
        seen: ids of the texts' tokens: single characters that none of them has go as well; None keeps all.
    """
    kept = set(file.added) | named_ids(file) | _lowest(file)
    kept |= {file.unknown} if file.unknown is not None else set()
    bytes_as_characters = set(pre_tokenizers.ByteLevel.alphabet())
    is_byte_level = bytes_as_characters <= file.ids.keys()
    characters = None if seen is None else {letter for index in seen for letter in file.tokens[index]}
    for index, token in file.own.items():
        letter = token.removeprefix(file.prefix).removesuffix(file.suffix) or token
        is_byte = BYTE.fullmatch(token) or (is_byte_level and letter in bytes_as_characters)
        if is_byte or (len(letter) == 1 and (characters is None or letter in characters)):
            kept.add(index)
    return kept


def _lowest(file: TokenizerFile) -> set[int]:
    """Find the piece with the lowest score, from which Unigram takes the penalty of unknown characters."""
    if file.kind != "Unigram":
        return set()
    return {min(file.own, key=lambda index: float(file.model["vocab"][index][1]))}


def with_merged_parts(file: TokenizerFile, wanted: Iterable[int]) -> set[int]:
    """Add to some ids, where the tokenizer is BPE, those of all tokens that are merged on the way to them."""
    kept = set(wanted)
    if file.kind != "BPE":
        return kept
    ranks = {pair: rank for rank, pair in enumerate(file.merges)}
    for index in tuple(kept):
        if index in file.own:
            kept |= {file.ids[part] for part in _built_from(file, file.own[index], ranks)}
    return kept


def _built_from(file: TokenizerFile, token: str, ranks: dict[Merge, int]) -> set[str]:
    """List the tokens that BPE has on the way to one, itself included; none where merges do not lead to it."""
    symbols = _letters(file, token)
    met = set(symbols)
    while len(symbols) > 1:
        pairs = list(pairwise(symbols))
        rank, place = min((ranks.get(pair, len(ranks)), place) for place, pair in enumerate(pairs))
        if rank == len(ranks):
            return set()
        symbols[place : place + 2] = [file.merged(pairs[place])]
        met.add(symbols[place])
    return met if symbols == [token] and met <= file.ids.keys() else set()


def _letters(file: TokenizerFile, token: str) -> list[str]:
    """Split a token into the symbols that BPE starts from, of one character each."""
    head = file.prefix if token.startswith(file.prefix) else ""
    tail = file.suffix if token.endswith(file.suffix) else ""
    letters = token[len(head) : len(token) - len(tail)]
    last = len(letters) - 1
    return [
        (file.prefix if place else head) + letter + (tail if place == last else "")
        for place, letter in enumerate(letters)
    ]


def parts_of_words(file: TokenizerFile, backend: Any, text: str) -> set[int]:
    """List the ids of all tokens that are a part of a word of a text: with all of them it splits as it always did.

    Args:
        file: all tokens.
        backend: the same tokenizer, of the tokenizers library.
        text: as the user gave it.
    """
    normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)] if backend.pre_tokenizer else [normal]
    longest = max(map(len, file.ids))
    found: set[int] = set()
    for word in set(words):
        for start in range(len(word)):
            for end in range(start + 1, min(len(word), start + longest) + 1):
                part = word[start:end]
                forms = {part, file.prefix + part, part + file.suffix, file.prefix + part + file.suffix}
                found |= {file.ids[form] for form in forms if form in file.ids}
    return found


def in_order(
    file: TokenizerFile, kept: Iterable[int], padding: int | None, further_rows: Iterable[int] = ()
) -> list[int]:
    """Order ids: the new id of each is its place.

    The model's own tokens come first and added ones after them, as the tokenizers library numbers them. Within that
    the old order stays, but that the padding token keeps its id where it can: some models count positions from it.

    Args:
        file: all tokens.
        kept: ids to keep.
        padding: id of the padding token; None if there is none.
        further_rows: ids of embeddings to keep that no token has.
    """
    ids = set(kept)
    own = sorted((ids & file.own.keys()) - {padding})
    if padding is not None and padding in ids and padding in file.own:
        own.insert(min(padding, len(own)), padding)
    return own + sorted(ids & file.added.keys() - file.own.keys()) + sorted(further_rows)
