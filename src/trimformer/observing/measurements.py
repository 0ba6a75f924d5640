"""Measurements of one site, made before any budget is known: a small dataclass of tensors, or named tensors.

Named tensors, `<site>.<field>`, are how measurements travel between processes and are stored; nothing else knows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Base of a method's measurement of a site; every field of it is a tensor, or None where there is none."""

    @property
    def removal_cost(self) -> Tensor | None:
        """Cost of each removal, `(units,)`, in order, for the report; None if the method does not estimate it."""
        return None


Measured = Mapping[str, Any]
"""Measurements of one kind by site name; safe to store and to reuse for other budgets."""
M = TypeVar("M", bound=Measurement)


def to_tensors(measured: Mapping[str, Measurement]) -> dict[str, Tensor]:
    """Name every tensor of some measurements `<site>.<field>`."""
    return {
        f"{site}.{field.name}": values
        for site, found in measured.items()
        for field in fields(found)
        if (values := getattr(found, field.name)) is not None
    }


def from_tensors(kind: type[M], named: Mapping[str, Tensor], sites: Iterable[str]) -> dict[str, M]:
    """Put measurements together again, in the order of some sites; a site of which nothing is there has none.

    Raises:
        ValueError: a tensor that no field has room for, or one that is missing.
    """
    found: dict[str, dict[str, Tensor]] = {site: {} for site in sites}
    for name, values in named.items():
        site, _, field = name.rpartition(".")
        if site not in found or field not in kind.__dataclass_fields__:
            raise ValueError(f"{name} is no field of a {kind.__name__}")
        found[site][field] = values
    try:
        return {site: kind(**parts) for site, parts in found.items() if parts}
    except TypeError as error:
        raise ValueError(f"a {kind.__name__} lacks a field: {error}") from error
