"""Sizes asked for, and a model -> bounds that searches keep to, and the blocks and sublayers of which some are dropped.

Everything that does not fit the model, the method or the budget is refused here, before anything is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trimformer.errors import InvalidOption, UnreachableTarget, unknown_name
from trimformer.model.sites import Site, place
from trimformer.model.structure import Structure
from trimformer.pruning.budget import CostTables
from trimformer.pruning.choose.bounds import FREE, Bounds
from trimformer.pruning.choose.search import ROUNDING
from trimformer.pruning.claims import KINDS, NONE, Claims, Range, by_layer, of_layers
from trimformer.pruning.contract import LAYER, JudgesUnits, Method
from trimformer.pruning.sizes import Sizes, entries, how_many, numbers

STEP = 1e-4
"""Step in which an error names shares."""


@dataclass(frozen=True)
class Drop:
    """Some blocks, or some sublayers, of which `count` lose all units: each group is the names of its sites."""

    count: int
    groups: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Constraints:
    """Bounds that sizes amount to, and what is still to be dropped by cost."""

    bounds: Bounds = FREE
    drops: tuple[Drop, ...] = ()

    def dropping(self, losses: Mapping[str, float]) -> Constraints:
        """Choose what is dropped, the groups that lose least together, and give the bounds with them at no unit.

        Args:
            losses: what is lost where a site is emptied, by name; 0 where it has no entry.
        """
        gone = set[str]()
        for drop in self.drops:
            left = [group for group in drop.groups if gone.isdisjoint(group)]
            ranked = sorted(left, key=lambda group: sum(losses.get(name, 0.0) for name in group))
            gone.update(name for group in ranked[: drop.count] for name in group)
        return Constraints(self.bounds.emptied(gone))

    def cost(self, tables: CostTables) -> tuple[float, float]:
        """Compute what the least and the most units cost that may stay, whichever blocks and sublayers are dropped."""
        least, most = self.bounds.cost(tables)
        for drop in self.drops:
            costs = [self.bounds.cost(tables, group) for group in drop.groups]
            least -= sum(sorted((low for low, _ in costs), reverse=True)[: drop.count])
            most -= sum(sorted(high for _, high in costs)[: drop.count])
        return max(least, 0.0), most

    def removes_anything(self, structure: Structure) -> bool:
        """Tell whether some units go by these sizes alone."""
        return bool(self.drops) or any(self.bounds.of(site.name, site.units)[1] < site.units for site in structure)

    def check_limit(self, tables: CostTables, limit: float, share_of: Callable[[float], float]) -> None:
        """Refuse a limit that even the least units exceed.

        Args:
            tables: cost of keeping 0, 1, … units, by site.
            limit: what the kept units may cost together.
            share_of: gives the share of the dense model's cost that a sum of the tables is.

        Raises:
            UnreachableTarget: names the shares that can be reached.
        """
        least, most = self.cost(tables)
        if least > limit * (1 + ROUNDING):
            high = share_of(most)
            low = min(share_of(least) + STEP / 2, high)
            raise UnreachableTarget(
                f"a share of {share_of(limit):.4g} cannot be reached with the sizes asked for, they allow from "
                f"{low:.4f} to {high:.4f} of the cost: ask for more, or fix and keep less"
            )


def constrain(sizes: Sizes, structure: Structure) -> Constraints:
    """Find what sizes mean for a model.

    Raises:
        InvalidOption: a layer, sublayer or size that the model does not have, or two wishes for one sublayer.
    """
    claims = Claims(structure)
    claims.add("only", _of_other_kinds(sizes, structure))
    claims.add("keep_layers", _whole(structure, sizes.keep_layers))
    blocks, sublayers = how_many(sizes.drop_blocks), how_many(sizes.drop_sublayers)
    if blocks is None:
        layers = of_layers(structure, numbers(sizes.drop_blocks, "drop_blocks"), "drop_blocks")
        claims.add("drop_blocks", {site.name: NONE for site in layers})
    if sublayers is None:
        claims.add("drop_sublayers", dict.fromkeys(_named_sublayers(structure, sizes.drop_sublayers), NONE))
    claims.add_by_site(sizes.sites)
    for field in KINDS:
        claims.add_by_kind(field, getattr(sizes, field))
    drops: tuple[Drop, ...] = ()
    if blocks is not None:
        drops += (_drop("drop_blocks", blocks, by_layer(structure), claims),)
    if sublayers is not None:
        dropped_too = sum(sorted(map(len, drops[0].groups))[-drops[0].count :]) if drops else 0
        drops += (_drop("drop_sublayers", sublayers, [[site] for site in structure], claims, dropped_too),)
    return Constraints(claims.bounds(), drops)


def suited(constraints: Constraints, structure: Structure, name: str, method: Method) -> Constraints:
    """Give constraints with the units that a method never removes kept whole.

    Raises:
        InvalidOption: sizes that the method cannot keep to; says why.
    """
    if constraints.drops and not isinstance(method, JudgesUnits):
        raise InvalidOption(
            f"{name} does not tell what whole sublayers are worth, so it cannot choose what is dropped: name them, "
            'such as `drop_blocks="3,5"`, or use another method'
        )
    if any(map(structure.has_slots, structure)) and not isinstance(method, JudgesUnits):
        raise InvalidOption(
            f"{name} does not tell what single query heads are worth, so it cannot choose among those of a key/value "
            "head: use another method, or `heads`"
        )
    whole: dict[str, Range] = {}
    least = 1 if method.removes == LAYER else 0
    for site in structure:
        if method.removes in (None, site.kind):
            continue
        if least <= constraints.bounds.of(site.name, site.units)[1] < site.units:
            raise InvalidOption(
                f"{name} removes {method.removes}s only, and {site.name} is to have fewer {site.kind}s: "
                "use another method"
            )
        if method.removes != LAYER:
            whole[site.name] = (site.units, site.units)
    return replace(constraints, bounds=constraints.bounds.with_range(whole))


def _of_other_kinds(sizes: Sizes, structure: Structure) -> dict[str, Range]:
    """Give the sites that `only` keeps whole, with all their units."""
    if sizes.only is None:
        return {}
    for field in KINDS:
        if KINDS[field] != KINDS[sizes.only] and getattr(sizes, field) is not None:
            raise InvalidOption(f"`only={sizes.only}` keeps all {field}, and `{field}` is a size of them: give one")
    if all(site.kind != KINDS[sizes.only] for site in structure):
        raise InvalidOption(f"`only={sizes.only}`: this model has no {sizes.only}")
    return {site.name: (site.units, site.units) for site in structure if site.kind != KINDS[sizes.only]}


def _whole(structure: Structure, wanted: Any) -> dict[str, Range]:
    sites = of_layers(structure, numbers(wanted, "keep_layers"), "keep_layers")
    return {site.name: (site.units, site.units) for site in sites}


def _named_sublayers(structure: Structure, wanted: Any) -> list[str]:
    """Find sublayers by their names, or by the number of their layer and the name there, such as `3.attention`."""
    layers = enumerate(by_layer(structure))
    short = {f"{number}.{place(site.name)[1]}": site.name for number, layer in layers for site in layer}
    known = short | {site.name: site.name for site in structure}
    for name in entries(wanted):
        if name not in known:
            raise unknown_name("sublayer in `drop_sublayers`", str(name), short)
    return [known[name] for name in entries(wanted)]


def _drop(option: str, count: int, groups: Sequence[Sequence[Site]], claims: Claims, dropped_too: int = 0) -> Drop:
    """Find what may be dropped by cost: groups with units of which nothing else was asked.

    Args:
        option: by which it was asked for.
        count: of groups that are to go.
        groups: blocks or sublayers.
        claims: all that was asked of single sites.
        dropped_too: number of these groups that may go for another reason.

    Raises:
        InvalidOption: fewer may go; says how many.
    """
    occupied = [group for group in groups if any(site.units for site in group)]
    free = [group for group in occupied if not any(map(claims.speak_of, group))]
    if count > len(free) - dropped_too:
        raise InvalidOption(
            f"`{option}={count}`: {len(free) - dropped_too} of {len(occupied)} can be dropped"
            + (", of the others something else is asked" if len(free) < len(occupied) or dropped_too else "")
        )
    return Drop(count, tuple(tuple(site.name for site in group) for group in free))
