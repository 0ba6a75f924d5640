"""The story: a model, its tokenizer and somebody's texts in; the same model with the tokens of these texts out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.errors import DataError, UnsupportedModel
from trimformer.model.structure import parameter_count
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
class _Kept:
    """The tokens that stay, and the tokenizer that has only those."""

    order: list[int]
    tokenizer: PreTrainedTokenizerBase
    proved: list[int]
    """Places of the texts that are split as before."""
    others: int
    """Number of texts with a rarer token than asked for."""
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

    Raises:
        InvalidOption: a wrong `minimum_count` or `characters`.
        DataError: no text, or a text that cannot be kept as it is.
        UnsupportedModel: a tokenizer or a model whose vocabulary cannot be trimmed.
        TrimformerError: the trimmed model answers otherwise, which would be a bug.
    """
    MINIMUM_COUNT.check(minimum_count)
    CHARACTERS.check(characters)
    if not texts:
        raise DataError("no texts to keep the tokens of: give at least one")
    file, count = read_file(tokenizer), embedding_rows(model)
    named_ids = _named(model, file, count)
    rows = encoded(tokenizer, texts)
    wanted = frequent([*rows, *encoded_rows], minimum_count)
    fixed = always_kept(file, None if characters == "all" else wanted) | (named_ids & file.tokens.keys())
    kept = _keep(model, tokenizer, texts, rows, file, wanted | fixed, named_ids - file.tokens.keys())
    small = with_rows(model, kept.order)
    sample = _spread(kept.proved, ANSWERED_TEXTS)
    difference = largest_difference(
        (model, small),
        (tokenizer, kept.tokenizer),
        ([rows[place] for place in sample], encoded(kept.tokenizer, [texts[place] for place in sample])),
        kept.order,
    )
    facts = VocabularyFacts(
        texts=name,
        minimum_count=minimum_count,
        characters=characters,
        tokens=BeforeAfter(before=len(file.tokens), after=len(kept.tokenizer)),
        rows=BeforeAfter(before=count, after=len(kept.order)),
        parameters=BeforeAfter(before=parameter_count(model), after=parameter_count(small)),
        bytes=BeforeAfter(before=weight_bytes(model), after=weight_bytes(small)),
        proved_texts=len(kept.proved),
        other_texts=kept.others,
        added_for_texts=kept.added,
        answered_texts=len(sample),
        largest_difference=difference,
        held_out=compare_held_out(tokenizer, kept, held_out) if held_out else None,
    )
    return Trimmed(small, kept.tokenizer, facts)


def _named(model: PreTrainedModel, file: TokenizerFile, rows: int) -> set[int]:
    """List the ids that the configs name.

    Raises:
        UnsupportedModel: one of them, or a token, has no row in the word embeddings.
    """
    configs = [model.config, getattr(model, "generation_config", None)]
    found = {index for config in configs if config is not None for index in named(config)}
    for index in sorted(found | file.tokens.keys()):
        if index >= rows:
            what = repr(file.tokens.get(index, "named by its config"))
            raise UnsupportedModel(
                f"token {index} ({what}) has no row in the model's word embeddings, which have {rows}: tokenizer and "
                "model do not belong together, or the embeddings were not resized when the token was added"
            )
    return found


def _keep(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    rows: Sequence[Sequence[int]],
    file: TokenizerFile,
    wanted: set[int],
    further_rows: set[int],
) -> _Kept:
    """Add tokens to the wanted ones until all texts that have only such tokens are split as before.

    Raises:
        DataError: a text is split otherwise whatever is added.
    """
    ids, added = with_merged_parts(file, wanted), 0
    to_prove = [place for place, row in enumerate(rows) if set(row) <= ids]
    while True:
        order = in_order(file, ids, tokenizer.pad_token_id, further_rows)
        made = with_tokens(tokenizer, file, order, model.config)
        new = {old: place for place, old in enumerate(order)}
        again = encoded(made, [texts[place] for place in to_prove])
        wrong = [to_prove[each] for each in differing([rows[place] for place in to_prove], again, new)]
        if not wrong:
            return _Kept(order, made, to_prove, len(rows) - len(to_prove), added)
        parts = {part for place in wrong for part in parts_of_words(file, tokenizer.backend_tokenizer, texts[place])}
        more = with_merged_parts(file, ids | parts) - ids
        if not more:
            raise DataError(
                f"text {wrong[0] + 1} ({texts[wrong[0]][:60]!r}) is split into other tokens whatever is kept: this "
                "tokenizer cannot be trimmed; leave that text out, or report it"
            )
        ids, added = ids | more, added + len(more)


def _spread(places: Sequence[int], most: int) -> list[int]:
    """Choose places evenly, at most so many."""
    step = max(1, -(-len(places) // most))
    return list(places[::step])


def compare_held_out(tokenizer: PreTrainedTokenizerBase, kept: _Kept, texts: Sequence[str]) -> HeldOutFacts:
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


def weight_bytes(model: PreTrainedModel, dtype: torch.dtype | None = None) -> int:
    """Add up the size of a model's weights, each once, as they are or as stored in another precision."""
    return sum(weight.numel() * (dtype or weight.dtype).itemsize for weight in model.parameters())
