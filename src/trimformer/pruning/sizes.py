"""Sizes asked for by name: how many units layers and sublayers keep, which stay whole, and which are dropped.

Here is what a user says, checked as far as that goes without a model; `constraints` makes bounds of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any

from trimformer.errors import InvalidOption
from trimformer.model.sites import unit_of

RANGE = re.compile(r"(\d+)(?:-(\d+))?")
SHAPE = re.compile(r"([1-9]\d*)x([1-9]\d*)")
"""So many heads, of so many dimensions each."""
ALL = "all"
"""The size that keeps every unit."""
UNITS, KEEP = "units", "keep"
"""Keys of a sublayer in `sites`: how many units it keeps, and the numbers of some that stay."""
UNIT_FIELDS = ("heads", "query_heads", "neurons")
"""Fields of `Sizes` that count units by layer."""
Count = int | str
"""A number of units: 8, `4-8` for a range, or `all`."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes that a pruned model shall have, alone or together with a budget.

    A size is a number of units, a range such as `"4-8"`, or `"all"`; of heads that may be narrower than the model's, a
    number with that of their dimensions, such as `"8x20"`. Layers are numbered from 0, in the order in which
    they run. Without a budget, whatever no size speaks of stays as it is; with one, it is what the budget decides on.

    Raises:
        InvalidOption: something that is no size, number or range; says what it must be.

    >>> Sizes(heads=8, neurons="512-1024", keep_layers="0-1").asked
    {'heads': 8, 'neurons': '512-1024', 'keep_layers': '0-1'}
    """

    heads: Count | Sequence[Count] | None = None
    """Attention heads of every layer, or one entry a layer; key/value heads, with the query heads that share each."""
    query_heads: Count | Sequence[Count] | None = None
    """Query heads of every layer, or one entry a layer, where key/value heads stay, each with as many query heads."""
    neurons: Count | Sequence[Count] | None = None
    """Feed-forward neurons of every layer, or one entry a layer."""
    sites: Mapping[str, Any] = field(default_factory=dict)
    """Sizes by layer (`"0-3"`) or by name of a sublayer, as a file of sizes has them; see `read_sizes`."""
    keep_layers: Count | Sequence[int] | None = None
    """Layers that keep all units, such as `"0-3,30-31"`."""
    drop_blocks: Count | Sequence[int] | None = None
    """How many blocks lose all units, chosen by cost; or which: `"3,5"`, `"4-7"`, a single one as `"5-5"` or `[5]`."""
    drop_sublayers: Count | Sequence[str] | None = None
    """How many sublayers lose all units, chosen by cost; or which: `"3.attention,5.ffn"`."""
    only: str | None = None
    """Kind of the units that may go, `heads` or `neurons`; those of other kinds all stay."""
    uniform: bool = False
    """True for as many units in every layer: the smaller model is one of its own class, and loads as any other."""

    def __post_init__(self) -> None:
        for name in UNIT_FIELDS:
            _check_units(getattr(self, name), name)
        if not isinstance(self.sites, Mapping):
            raise InvalidOption(f"`sites={self.sites!r}` must be sizes by layer or sublayer, such as {EXAMPLE}")
        object.__setattr__(self, "sites", {str(name): size for name, size in self.sites.items()})
        for name in ("keep_layers", "drop_blocks"):
            value = getattr(self, name)
            if value is not None and how_many(value) is None:
                numbers(value, name)
        if self.only not in (None, "heads", "neurons"):
            raise InvalidOption(f"`only={self.only}` must be heads or neurons: the units that may go")
        if not isinstance(self.uniform, bool):
            raise InvalidOption(f"`uniform={self.uniform!r}` must be true or false")
        if self.heads is not None and self.by_query_head:
            raise InvalidOption("`heads` and `query_heads` are sizes of the same layers: give one of them")
        if how_many(self.drop_blocks) == 0 or how_many(self.drop_sublayers) == 0:
            raise InvalidOption("`drop_blocks` and `drop_sublayers` must be at least 1: leave them out to drop none")

    @property
    def by_query_head(self) -> bool:
        """True where query heads are asked for, so that they go one by one, not by key/value head."""
        by_layer = (entry for entry in self.sites.values() if isinstance(entry, Mapping))
        return self.query_heads is not None or any("query_heads" in entry for entry in by_layer)

    @property
    def about_heads(self) -> bool:
        """True where a number of heads is asked for, in all layers or in single ones."""
        about = {name: unit_of(name.rpartition(".")[2]) for name in self.sites}
        named = [each for name, each in self.sites.items() if about[name] != "neuron" and each not in (ALL, 0, "0")]
        return self.heads is not None or any(not isinstance(each, Mapping) or {*each} != {"neurons"} for each in named)

    @property
    def by_dimension(self) -> bool:
        """True where heads of a width are asked for, so that dimensions of heads are what stays or goes."""
        by_site = [each.values() if isinstance(each, Mapping) else [each] for each in self.sites.values()]
        return any(read_shape(size) is not None for size in (*entries(self.heads), *chain(*by_site)))

    @property
    def asked(self) -> dict[str, Any]:
        """The sizes that were asked for, by field, as JSON has it; a field that nobody named is left out."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            for name, value in given.items()
            if value is not None and value is not False and value != {}
        }


def _check_units(given: Any, name: str) -> None:
    for entry in entries(given) or ([] if given is None else [given]):
        if name != "heads" or read_shape(entry) is None:
            span(entry, name)


EXAMPLE = '{"0-3": "all", "4": {"heads": 8, "neurons": 1024}}'


def entries(value: Any) -> list[Any]:
    """List the entries of a value that is one, several with commas, or a sequence; none where it is None.

    >>> entries("12,8,4-8")
    ['12', '8', '4-8']
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()] or [value]
    return list(value) if isinstance(value, Sequence) else [value]


def span(value: Any, name: str, where: str = "") -> tuple[int, int] | None:
    """Read a size: the least and the most units; None for `all`.

    Raises:
        InvalidOption: it is no size; `name` is what it was given as, `where` the part of the model.

    >>> span("4-8", "heads"), span(8, "heads"), span("all", "heads")
    ((4, 8), (8, 8), None)
    """
    if value == ALL:
        return None
    found = read_range(value)
    if found is None:
        of = f" of {where}" if where else ""
        raise InvalidOption(f"`{name}={value}`{of} must be a number of units such as 8, a range such as 4-8, or all")
    return found


def numbers(value: Any, name: str) -> list[int]:
    """Read numbers with commas and ranges, each once, rising.

    Raises:
        InvalidOption: one is no number or range; `name` is what it was given as.

    >>> numbers("0-3,30-31", "keep_layers")
    [0, 1, 2, 3, 30, 31]
    """
    listed: set[int] = set()
    for entry in entries(value):
        found = read_range(entry)
        if found is None:
            raise InvalidOption(f"`{name}={value}` must be numbers and ranges, such as 0-3,30-31")
        listed.update(range(found[0], found[1] + 1))
    return sorted(listed)


def read_range(value: Any) -> tuple[int, int] | None:
    """Read a number, or a range of two that do not fall; None where it is neither.

    >>> read_range(3), read_range("4-8"), read_range("8-4")
    ((3, 3), (4, 8), None)
    """
    found = RANGE.fullmatch(str(value)) if isinstance(value, (Integral, str)) else None
    if found is None or int(found[1]) > int(found[2] or found[1]):
        return None
    return int(found[1]), int(found[2] or found[1])


def read_shape(value: Any) -> tuple[int, int] | None:
    """Read heads of a width, so many of so many dimensions each; None where it is something else.

    >>> read_shape("8x20"), read_shape("8")
    ((8, 20), None)
    """
    found = SHAPE.fullmatch(value) if isinstance(value, str) else None
    return (int(found[1]), int(found[2])) if found else None


def how_many(value: Any) -> int | None:
    """Read a value of `drop_blocks` or `drop_sublayers` that is a count; None where it is names.

    >>> how_many(4), how_many("4"), how_many("4-4"), how_many([4])
    (4, 4, None, None)
    """
    text = str(value) if isinstance(value, (Integral, str)) else ""
    return int(text) if text.isdecimal() else None


def read_sizes(file: str | Path) -> dict[str, Any]:
    """Read a file of sizes for `Sizes(sites=…)`: JSON, sizes by layer or by name of a sublayer.

    A layer's entry is `"all"`, 0, or sizes by kind, `{"heads": 8, "neurons": 1024}`. A sublayer's entry is a size, or
    `{"units": 3, "keep": [0, 4, 5]}`, where `keep` has the numbers of units that stay whatever their score.

    Raises:
        InvalidOption: it cannot be read, or is something else.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8-sig"), object_pairs_hook=_each_once)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidOption(
            f"the sizes in {file} cannot be read ({error}): it must be JSON such as {EXAMPLE}"
        ) from error
    if not isinstance(content, dict):
        raise InvalidOption(f"{file} must be JSON with sizes by layer or sublayer, such as {EXAMPLE}")
    return content


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return content


def is_of_sizes(file: Path) -> bool:
    """Tell whether a file is one of sizes, by its keys: layers, or names of sublayers with dots."""
    try:
        return all(read_range(key) or "." in key for key in read_sizes(file))
    except InvalidOption:
        return False
