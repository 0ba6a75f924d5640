"""Bounds that a search keeps to: how many units each site may keep, and units that stay whatever their score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trimformer.errors import TrimformerError
from trimformer.model.sites import Masks
from trimformer.pruning.budget import CostTables

MUST, MAY, MUST_NOT = 1, 0, -1
"""Tiers of units: those that stay, those that the search decides on, those that go."""


@dataclass(frozen=True)
class Bounds:
    """Least and most units of sites, by site name; a site without an entry may keep any number."""

    least: Mapping[str, int] = field(default_factory=dict)
    most: Mapping[str, int] = field(default_factory=dict)
    protected: Masks = field(default_factory=dict)
    """Units that stay, `(units,)`, True = stays; they count among the least."""
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Heads that stay, and dimensions of each, of sites whose units are dimensions and whose size is fixed so."""

    def of(self, site: str, units: int) -> tuple[int, int]:
        """Give the least and the most units that a site of so many may keep."""
        most = min(self.most.get(site, units), units)
        return min(self.least.get(site, 0), most), most

    def free(self, site: str, units: int) -> slice:
        """Give the removals of a site that the search decides on: those before are made, those after are not."""
        least, most = self.of(site, units)
        return slice(units - most, units - least)

    def tier(self, site: str, scores: Tensor) -> Tensor:
        """Divide a site's units, by falling score, into those that stay, may stay and go: `(units,)` of `MUST`, ….

        Protected units stand before all others.
        """
        least, most = self.of(site, scores.numel())
        by_score = scores.double().cpu().argsort(descending=True, stable=True)
        order = self._protected_at(site, by_score, last=False)
        tier = torch.full((scores.numel(),), MAY, dtype=torch.long)
        tier[order[:least]], tier[order[most:]] = MUST, MUST_NOT
        return tier

    def protected_last(self, site: str, order: Tensor) -> Tensor:
        """Move protected units to the end of an order of removal, `(units,)`; the others keep their order."""
        return self._protected_at(site, order, last=True)

    def _protected_at(self, site: str, order: Tensor, *, last: bool) -> Tensor:
        if site not in self.protected:
            return order
        stays = self.protected[site][order]
        parts = (order[stays], order[~stays])
        return torch.cat(parts[::-1] if last else parts)

    def keeping_protected(self, site: str, mask: Tensor) -> Tensor:
        """Exchange the last kept units of a mask for protected ones that it lacks; as many are kept as before."""
        lacking = self.protected.get(site, torch.zeros_like(mask)) & ~mask
        if not bool(lacking.any()):
            return mask
        spare = (mask & ~self.protected[site]).nonzero()[:, 0]
        return (mask | lacking).index_fill(0, spare[len(spare) - int(lacking.sum()) :], value=False)

    def with_range(self, sites: Mapping[str, tuple[int, int]]) -> Bounds:
        """Give the same bounds with other least and most units of some sites."""
        least = {name: pair[0] for name, pair in sites.items()}
        most = {name: pair[1] for name, pair in sites.items()}
        return replace(self, least={**self.least, **least}, most={**self.most, **most})

    def emptied(self, sites: Iterable[str]) -> Bounds:
        """Give the same bounds with no unit of some sites."""
        gone = set(sites)
        shapes = {name: shape for name, shape in self.shapes.items() if name not in gone}
        return replace(self, shapes=shapes).with_range(dict.fromkeys(sorted(gone), (0, 0)))

    def without_most(self) -> Bounds:
        """Give the same bounds for a larger model: every site may keep all its units."""
        return replace(self, most={})

    def fitting(self, units: Mapping[str, int], multiples: Mapping[str, int]) -> dict[str, int]:
        """Give what sizes of the sites given with their units are multiples of: any, 1, where a range holds none.

        What was asked for is so never rounded: neither one size nor a range such as 0 to 3, where 16 are wished for.
        """
        found = {}
        for name, count in units.items():
            (least, most), multiple = self.of(name, count), multiples[name]
            low, high = _inner(least, most, count, multiple)
            found[name] = multiple if least < most and low <= high and high else 1
        return found

    def in_multiples(self, units: Mapping[str, int], multiples: Mapping[str, int]) -> Bounds:
        """Narrow ranges to what `fitting` says of sites given with their units, or all of these."""
        fitting = self.fitting(units, multiples)
        return self.with_range({name: _inner(*self.of(name, n), n, fitting[name]) for name, n in units.items()})

    def cost(self, tables: CostTables, sites: Iterable[str] | None = None) -> tuple[float, float]:
        """Add up what the least, and what the most units of some sites cost; of all sites where none are named."""
        names = list(tables) if sites is None else list(sites)
        ranges = {name: self.of(name, len(tables[name]) - 1) for name in names}
        least, most = (sum(float(tables[name][ranges[name][end]]) for name in names) for end in (0, 1))
        return least, most

    def check(self, masks: Masks) -> None:
        """Refuse masks outside the bounds.

        Raises:
            TrimformerError: names the site; the method that made them has a bug.
        """
        for name, mask in masks.items():
            least, most = self.of(name, mask.numel())
            lost = self.protected[name] & ~mask if name in self.protected else torch.zeros(1)
            if not least <= int(mask.sum()) <= most or bool(lost.any()):
                raise TrimformerError(
                    f"the method kept {int(mask.sum())} units of {name}, not {least} to {most}, and removed "
                    f"{int(lost.sum())} that are to stay: this is a bug of the method"
                )


FREE = Bounds()
"""Bounds of a search that a limit of cost alone decides."""


def _inner(least: int, most: int, count: int, multiple: int) -> tuple[int, int]:
    """Give the ends of a range of so many units in multiples; all count as one."""
    return min(-(-least // multiple) * multiple, count), most if most == count else most // multiple * multiple
