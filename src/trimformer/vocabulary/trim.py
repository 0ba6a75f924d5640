"""The story: a model, its tokenizer and somebody's texts in; the same model with the tokens of these texts out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.errors import DataError, UnsupportedModel
from trimformer.model.arguments import check_tokenizer, check_torch_dtype
from trimformer.model.refusals import check_kind
from trimformer.model.structure import parameter_count
from trimformer.model.weights import weight_bytes
from trimformer.vocabulary.arguments import check_texts, checked_rows
from trimformer.vocabulary.embeddings import embedding_rows, with_rows
from trimformer.vocabulary.facts import CHARACTERS, MINIMUM_COUNT, BeforeAfter, HeldOutFacts, VocabularyFacts
from trimformer.vocabulary.named_tokens import named
from trimformer.vocabulary.needed import always_kept, frequent, in_order, parts_of_words, with_merged_parts
from trimformer.vocabulary.proof import ANSWERED_TEXTS, differing, encoded, largest_difference
from trimformer.vocabulary.smaller_tokenizer import read_file, with_tokens
from trimformer.vocabulary.tokenizer_file import TokenizerFile


@dataclass(frozen=True)
class Trimmed:
    """The trimmed model, its tokenizer, and every fact a person would ask for."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: VocabularyFacts


@dataclass(frozen=True)
class _Given:
    """The model, tokenizer and texts before anything is trimmed."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    file: TokenizerFile
    texts: Sequence[str]
    rows: Sequence[Sequence[int]]
    """Token ids of each text."""


@dataclass(frozen=True)
class _Kept:
    """The tokens that stay, and the tokenizer that has only those."""

    order: list[int]
    tokenizer: PreTrainedTokenizerBase
    proved: list[int]
    """Places of the texts that are split as before."""
    added: int
    """Number of tokens that stay only so that a text is split as before."""


def trim_vocabulary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    minimum_count: int = 1,
    characters: str = "all",
    held_out: Sequence[str] = (),
    encoded_rows: Iterable[Sequence[int]] = (),
    name: str = "texts",
    dtype: torch.dtype | None = None,
) -> Trimmed:
    """Keep only the tokens that some texts need; the model and tokenizer given stay as they are.

    Special, added, byte and single-character tokens always stay, so that any text can still be read. What was done is
    proved before it is given back: these texts split into the same tokens, the weights of kept tokens are the same,
    and on a sample of the texts both models answer the same.

    Args:
        model: a transformers model, dense or pruned.
        tokenizer: of the model, a fast one.
        texts: everything whose tokens are to stay, as the model will meet it.
        minimum_count: keep tokens that the texts have at least this often.
        characters: single-character tokens to keep: `all`, or `seen`, those in the texts; bytes always stay.
        held_out: other texts, to tell what the trimmed tokenizer makes of them.
        encoded_rows: token ids to keep as well, such as those of rows that a task has encoded.
        name: what the texts are called in the facts, such as their file.
        dtype: precision in which the weights will be stored, for their size in the facts; None is their own.

    Raises:
        InvalidOption: a wrong `minimum_count` or `characters`, or an argument of another kind.
        DataError: no text, or a text that cannot be kept as it is.
        UnsupportedModel: a tokenizer or a model whose vocabulary cannot be trimmed.
        TrimformerError: the trimmed model answers otherwise, which would be a bug.
    """
    MINIMUM_COUNT.check(minimum_count)
    CHARACTERS.check(characters)
    check_kind(model)
    check_tokenizer(tokenizer, needed=True)
    check_torch_dtype(dtype)
    check_texts("texts", texts)
    check_texts("held_out", held_out)
    if not len(texts):
        raise DataError("no texts to keep the tokens of: give at least one")
    ids = checked_rows(encoded_rows)
    given = _Given(model, tokenizer, read_file(tokenizer), texts, encoded(tokenizer, texts))
    named_ids, tokens = _named(given), given.file.tokens.keys()
    wanted = frequent([*given.rows, *ids], minimum_count)
    fixed = always_kept(given.file, None if characters == "all" else wanted)
    kept = _keep(given, wanted | fixed | (named_ids & tokens), named_ids - tokens)
    small = with_rows(model, kept.order)
    answered, difference = _compare_answers(given, kept, small)
    facts = VocabularyFacts(
        texts=name,
        minimum_count=minimum_count,
        characters=characters,
        tokens=BeforeAfter(before=len(tokens), after=len(kept.tokenizer)),
        rows=BeforeAfter(before=embedding_rows(model), after=len(kept.order)),
        parameters=BeforeAfter(before=parameter_count(model), after=parameter_count(small)),
        bytes=BeforeAfter(before=weight_bytes(model, dtype), after=weight_bytes(small, dtype)),
        proved_texts=len(kept.proved),
        other_texts=len(texts) - len(kept.proved),
        added_for_texts=kept.added,
        answered_texts=answered,
        largest_difference=difference,
        held_out=_compare_held_out(tokenizer, kept, held_out) if held_out else None,
    )
    return Trimmed(small, kept.tokenizer, facts)


def _named(given: _Given) -> set[int]:
    """List the ids that the configs name.

    Raises:
        UnsupportedModel: one of them, or a token, has no row in the word embeddings.
    """
    configs = [given.model.config, getattr(given.model, "generation_config", None)]
    found = {index for config in configs if config is not None for index in named(config)}
    rows, tokens = embedding_rows(given.model), given.file.tokens
    for index in sorted(found | tokens.keys()):
        if index >= rows:
            what = repr(tokens[index]) if index in tokens else "named by the config"
            raise UnsupportedModel(
                f"token {index} ({what}) has no row in the model's word embeddings, which have {rows}: tokenizer and "
                "model do not belong together, or the embeddings were not resized when the token was added"
            )
    return found


def _keep(given: _Given, wanted: set[int], further_rows: set[int]) -> _Kept:
    """Add tokens to the wanted ones until all texts that have only such tokens are split as before.

    Raises:
        DataError: a text is split otherwise whatever is added.
    """
    file, tokenizer, texts, rows = given.file, given.tokenizer, given.texts, given.rows
    config_padding = given.model.config.get_text_config().pad_token_id
    padding = tokenizer.pad_token_id if config_padding is None else config_padding
    ids, added = with_merged_parts(file, wanted), 0
    to_prove = [place for place, row in enumerate(rows) if set(row) <= ids]
    while True:
        order = in_order(file, ids, padding, further_rows)
        made = with_tokens(tokenizer, file, order, given.model.config)
        new = {old: place for place, old in enumerate(order)}
        again = encoded(made, [texts[place] for place in to_prove])
        wrong = [to_prove[each] for each in differing([rows[place] for place in to_prove], again, new)]
        if not wrong:
            return _Kept(order, made, to_prove, added)
        parts = {part for place in wrong for part in parts_of_words(file, tokenizer.backend_tokenizer, texts[place])}
        more = with_merged_parts(file, ids | parts) - ids
        if not more:
            raise DataError(
                f"text {wrong[0] + 1} ({texts[wrong[0]][:60]!r}) is split into other tokens whatever is kept: this "
                "tokenizer cannot be trimmed; leave that text out, or report it"
            )
        ids, added = ids | more, added + len(more)


def _compare_answers(given: _Given, kept: _Kept, small: PreTrainedModel) -> tuple[int, float]:
    """Compare the answers of both models on texts chosen evenly: their number, and the largest difference."""
    step = max(1, -(-len(kept.proved) // ANSWERED_TEXTS))
    sample = kept.proved[::step]
    rows = [given.rows[place] for place in sample], encoded(kept.tokenizer, [given.texts[place] for place in sample])
    return len(sample), largest_difference((given.model, small), (given.tokenizer, kept.tokenizer), rows, kept.order)


def _compare_held_out(tokenizer: PreTrainedTokenizerBase, kept: _Kept, texts: Sequence[str]) -> HeldOutFacts:
    """Compare what both tokenizers make of texts that nothing was kept for."""
    before, after = encoded(tokenizer, texts), encoded(kept.tokenizer, texts)
    unknown = tokenizer.unk_token_id, kept.tokenizer.unk_token_id
    new = {old: place for place, old in enumerate(kept.order)}
    return HeldOutFacts(
        texts=len(texts),
        otherwise=len(differing(before, after, new)),
        tokens=BeforeAfter(before=sum(map(len, before)), after=sum(map(len, after))),
        unknown=BeforeAfter(
            before=sum(row.count(unknown[0]) for row in before), after=sum(row.count(unknown[1]) for row in after)
        ),
    )
