"""The content of a `tokenizer.json`: which tokens it has, and the same file with fewer of them.

Pure functions on the JSON that the tokenizers library writes: a model (WordPiece, BPE, Unigram or WordLevel) with its
tokens, tokens that were added to it, and parts that name ids: the template around a text, and padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trimformer.errors import UnsupportedModel

KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")
Merge = tuple[str, str]


@dataclass(frozen=True)
class TokenizerFile:
    """A `tokenizer.json`, read.

    Raises:
        UnsupportedModel: a model of another kind.
    """

    content: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnsupportedModel(
                f"the tokenizer is of the kind {self.kind or 'unknown'}: only vocabularies of {', '.join(KINDS)} can "
                "be trimmed; leave the vocabulary as it is"
            )

    @property
    def model(self) -> Mapping[str, Any]:
        """The part that splits words into tokens."""
        found: Mapping[str, Any] = self.content["model"]
        return found

    @property
    def kind(self) -> str:
        """One of `KINDS`; older files do not name it, but only BPE has merges."""
        return self.model.get("type") or ("BPE" if "merges" in self.model else "")

    @cached_property
    def own(self) -> dict[int, str]:
        """Tokens of the model, by id."""
        if self.kind == "Unigram":
            return {index: piece for index, (piece, _) in enumerate(self.model["vocab"])}
        return {index: token for token, index in self.model["vocab"].items()}

    @cached_property
    def added(self) -> dict[int, str]:
        """Tokens that were added to the model, special or not, by id; the model may have them as well."""
        return {token["id"]: token["content"] for token in self.content["added_tokens"]}

    @cached_property
    def tokens(self) -> dict[int, str]:
        """All tokens, by id."""
        return self.own | self.added

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids of the model's own tokens."""
        return {token: index for index, token in self.own.items()}

    @property
    def prefix(self) -> str:
        """The mark before a token that continues a word, such as `##`; empty for none."""
        return self.model.get("continuing_subword_prefix") or ""

    @property
    def suffix(self) -> str:
        """The mark behind a token that ends a word, such as `</w>`; empty for none."""
        return self.model.get("end_of_word_suffix") or ""

    @property
    def unknown(self) -> int | None:
        """Id of the token for what has no token; None if there is none."""
        if self.kind == "Unigram":
            return self.model.get("unk_id")
        return self.ids.get(self.model.get("unk_token") or "")

    @cached_property
    def merges(self) -> list[Merge]:
        """Merges of BPE, first comes first; older files write a pair as one text with a space."""
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in self.model.get("merges", ())]
        return [(first, second) for first, second in pairs]

    def merged(self, pair: Merge) -> str:
        """Write the token that a merge makes."""
        return pair[0] + pair[1].removeprefix(self.prefix)


def trimmed(file: TokenizerFile, order: Sequence[int]) -> dict[str, Any]:
    """Write a tokenizer file that has some of the tokens only.

    Args:
        file: the file with all tokens; stays as it is.
        order: ids to keep; the new id of each is its place. The model's own tokens stand first.

    Returns:
        The content of the new file.
    """
    content: dict[str, Any] = deepcopy({name: part for name, part in file.content.items() if name != "model"})
    new = {old: place for place, old in enumerate(order)}
    model = {name: part for name, part in file.model.items() if name not in ("vocab", "merges")}
    if file.kind == "Unigram":
        pieces = file.model["vocab"]
        model["vocab"] = [pieces[old] for old in order if old in file.own]
        if file.unknown is not None:
            model["unk_id"] = new[file.unknown]
    else:
        model["vocab"] = {file.own[old]: place for place, old in enumerate(order) if old in file.own}
    if "merges" in file.model:
        has = model["vocab"]
        model["merges"] = [
            list(pair) for pair in file.merges if pair[0] in has and pair[1] in has and file.merged(pair) in has
        ]
    content["model"] = model
    content["added_tokens"] = [token | {"id": new[token["id"]]} for token in content["added_tokens"]]
    content["added_tokens"].sort(key=lambda token: token["id"])
    _renumber_template(content.get("post_processor"), new.__getitem__)
    if content.get("padding"):
        content["padding"]["pad_id"] = new[content["padding"]["pad_id"]]
    return content


def named_ids(file: TokenizerFile) -> set[int]:
    """List the ids that parts beside the model name: the template around a text, and padding."""
    found: set[int] = set()

    def note(index: int) -> int:
        found.add(index)
        return index

    _renumber_template(deepcopy(file.content.get("post_processor")), note)
    if file.content.get("padding"):
        found.add(file.content["padding"]["pad_id"])
    return found


def _renumber_template(processor: dict[str, Any] | None, new: Callable[[int], int]) -> None:
    """Put new ids, in place, into the part that adds special tokens around a text."""
    if not processor:
        return
    for each in processor.get("processors", ()):
        _renumber_template(each, new)
    for token in processor.get("special_tokens", {}).values():
        token["ids"] = [new(index) for index in token["ids"]]
    for name in ("sep", "cls"):
        if name in processor:
            text, index = processor[name]
            processor[name] = [text, new(index)]
