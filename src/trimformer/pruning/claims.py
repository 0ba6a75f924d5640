"""What the parts of `Sizes` ask of a model's sites, one after the other, and the refusal of what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch

from trimformer.errors import InvalidOption, unknown_name
from trimformer.model.sites import Masks, Site, place
from trimformer.model.structure import Structure
from trimformer.pruning.choose.bounds import FREE, Bounds
from trimformer.pruning.sizes import KEEP, UNITS, entries, numbers, read_range, read_shape, span

KINDS = {"heads": "head", "query_heads": "head", "neurons": "neuron"}
"""Kinds of units, by the fields of `Sizes` that are sizes of them."""
NONE = (0, 0)
Range = tuple[int, int]
"""The least and the most units of a site."""
Shape = tuple[int, int]
"""Heads of a site, and dimensions of each."""


class Claims:
    """Collects what was asked of each site of a model so far."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.by_site: dict[str, tuple[str, Range]] = {}
        """By name of a site, the option that asks for a size of it alone, and the size."""
        self.general: dict[str, Range] = {}
        """Sizes that were asked for in all layers alike; those for single ones go before."""
        self.protected: Masks = {}
        """Units that stay, by site."""
        self.shapes: dict[str, Shape] = {}
        """Heads, and dimensions of each, by site whose units are dimensions of heads."""

    def add(self, option: str, ranges: Mapping[str, Range]) -> None:
        """Add sizes of single sites.

        Raises:
            InvalidOption: another option, or another entry, asks for another size of one of them.
        """
        for name, pair in ranges.items():
            other, before = self.by_site.setdefault(name, (option, pair))
            if before != pair:
                both = f"`{other}` and `{option}`" if other != option else f"two entries of `{option}`"
                raise InvalidOption(
                    f"{both} ask for {_told(before)} and {_told(pair)} units of {name}: give one of them"
                )

    def add_by_kind(self, field: str, value: Any) -> None:
        """Add the sizes of `heads` or `neurons`: for all layers alike, or one entry a layer.

        Raises:
            InvalidOption: no layer has such units, or not so many; or the entries are not as many as layers.
        """
        listed, layers = entries(value), by_layer(self.structure)
        sites = [site for site in self.structure if site.kind == KINDS[field]]
        if listed and not sites:
            raise InvalidOption(f"`{field}={value}`: this model has no {field}")
        if len(listed) == 1 and not isinstance(value, (list, tuple)):
            free = [site for site in sites if site.name not in self.by_site]
            self.general |= {site.name: self._of(sites, site, listed[0], field) for site in free}
            return
        if listed and len(listed) != len(layers):
            raise InvalidOption(
                f"`{field}` has {len(listed)} entries, the model has {len(layers)} layers: give one for each"
            )
        for entry, layer in zip(listed, layers, strict=False):
            own = [site for site in layer if site in sites]
            self.add(field, {site.name: self._of(sites, site, entry, field) for site in own})

    def add_by_site(self, sizes: Mapping[str, Any]) -> None:
        """Add the sizes of a file, by layer or by sublayer, and the units that are to stay.

        Raises:
            InvalidOption: a layer, sublayer, size or unit that the model does not have.
        """
        for key, entry in sizes.items():
            for site, own in _entries_of(self.structure, key, entry):
                about = own if isinstance(own, Mapping) else {UNITS: own}
                for name in about:
                    if name not in (UNITS, KEEP):
                        raise unknown_name(f"key of {site.name} in `sites`", str(name), (UNITS, KEEP))
                if UNITS in about:
                    self.add("sites", {site.name: self._of([site], site, about[UNITS], "sites")})
                if KEEP in about:
                    self._protect(site, about[KEEP])

    def _of(self, sites: Sequence[Site], site: Site, entry: Any, option: str) -> Range:
        """Read a size of a site; of one whose units are dimensions of heads, note the shape that heads are to have."""
        if not site.head_width:
            return in_site(sites, site, entry, option)
        heads, width = shape = shape_in_site(sites, site, entry, option)
        if heads:
            self.shapes[site.name] = shape
        return heads * width, heads * width

    def _protect(self, site: Site, wanted: Any) -> None:
        if site.head_width:
            raise InvalidOption(
                f"`sites`: which heads of {site.name} stay is decided with their width, leave out `keep`"
            )
        if site.groups > 1:
            raise InvalidOption(f"`sites`: which query heads of {site.name} stay is decided by group, leave out `keep`")
        stays = numbers(wanted, KEEP)
        if stays and stays[-1] >= site.units:
            raise InvalidOption(f"`sites`: unit {stays[-1]} of {site.name} is to stay: {_ranges([site])}")
        mask = self.protected.setdefault(site.name, torch.zeros(site.units, dtype=torch.bool))
        mask[stays] = True

    def bounds(self) -> Bounds:
        """Make the bounds of all that was asked.

        Raises:
            InvalidOption: more units of a site are to stay than it may keep.
        """
        ranges = self.general | {name: pair for name, (_, pair) in self.by_site.items()}
        for name, mask in self.protected.items():
            stay = int(mask.sum())
            least, most = ranges.get(name, (0, len(mask)))
            if stay > most:
                raise InvalidOption(f"`sites`: {stay} units of {name} are to stay, of at most {most}")
            ranges[name] = (max(least, stay), most)
        return Bounds(protected=self.protected, shapes=self.shapes).with_range(ranges) if ranges else FREE

    def speak_of(self, site: Site) -> bool:
        """Tell whether something was asked of a site alone."""
        return site.name in self.by_site or site.name in self.protected


def in_site(sites: Sequence[Site], site: Site, entry: Any, option: str) -> Range:
    """Read a size of a site.

    Args:
        sites: those that a message tells the sizes of.
        site: whose size it is.
        entry: as it was given.
        option: which it was given by.

    Raises:
        InvalidOption: it is no size, or there are not so many units; tells the sizes by layer.
    """
    if read_shape(entry) is not None:
        raise InvalidOption(
            f"`{option}={entry}`: {site.kind}s of {site.name} cannot be narrower: give their number alone"
        )
    pair = span(entry, option, site.name if option == "sites" else "")
    if pair is None:
        return site.units, site.units
    if pair[1] > site.units * site.groups:
        raise InvalidOption(f"`{option}={entry}` is more than {site.name} has: {_ranges(sites)}")
    if any(size % site.groups for size in pair):
        raise InvalidOption(
            f"`{option}={entry}` is no multiple of the {site.groups} key/value heads of {site.name}: {_ranges(sites)}"
        )
    return pair[0] // site.groups, pair[1] // site.groups


def shape_in_site(sites: Sequence[Site], site: Site, entry: Any, option: str) -> Shape:
    """Read a size of a site whose units are dimensions of heads: heads, and dimensions of each.

    Raises:
        InvalidOption: it is no such size, or heads are not so many or so wide.
    """
    pair = span(entry, option, site.name if option == "sites" else "") if read_shape(entry) is None else None
    if pair is not None and pair[0] != pair[1]:
        raise InvalidOption(f"`{option}={entry}` is a range: beside heads of a width, give numbers such as 8 or 8x20")
    all_heads = (site.heads, site.head_width)
    heads, width = read_shape(entry) or (all_heads if pair is None else (pair[0], site.head_width))
    if heads > site.heads or width > site.head_width:
        raise InvalidOption(f"`{option}={entry}` is more than {site.name} has: {_ranges(sites)}")
    return heads, width


def by_layer(structure: Structure) -> list[list[Site]]:
    """List the sites of every layer, in the order in which the layers run."""
    return [list(sites) for _, sites in groupby(structure, key=lambda site: (site.chain, site.block))]


def of_layers(structure: Structure, wanted: Iterable[int], option: str) -> list[Site]:
    """Find the sites of layers by their numbers.

    Raises:
        InvalidOption: there is no such layer.
    """
    layers, found = by_layer(structure), list[Site]()
    for number in wanted:
        if number >= len(layers):
            raise InvalidOption(f"`{option}`: there is no layer {number}, the model has layers 0 to {len(layers) - 1}")
        found += layers[number]
    return found


def _entries_of(structure: Structure, key: str, entry: Any) -> list[tuple[Site, Any]]:
    """Find the sites that an entry of a file speaks of, each with its own part of it."""
    named = {site.name: site for site in structure}
    if key in named:
        return [(named[key], entry)]
    if read_range(key) is None:
        layers = f"0-{len(by_layer(structure)) - 1}"
        raise unknown_name("layer or sublayer in `sites`", key, [layers, *named])
    sites = of_layers(structure, numbers(key, "sites"), "sites")
    if not isinstance(entry, Mapping):
        if span(entry, "sites", f"layer {key}") not in (None, NONE):
            raise InvalidOption(f"`sites`: layer {key} can be all, 0, or sizes such as {{'heads': 8}}, not {entry}")
        return [(site, entry) for site in sites]
    known = {name for site in sites for name in called(site)}
    for name in entry:
        if name not in known:
            raise unknown_name(f"kind of unit of layer {key} in `sites`", str(name), known)
    return [(site, own) for name, own in entry.items() for site in sites if name in called(site)]


def called(site: Site) -> list[str]:
    """Give the words for a site in its layer's entry: the plural of its kind of unit, and the sublayer's name."""
    by_query_head = ["query_heads"] if site.attends and site.query_heads == site.groups else []
    return [*([f"{site.kind}s"] if site.groups == 1 else []), *by_query_head, place(site.name)[1]]


def _ranges(sites: Sequence[Site]) -> str:
    """Tell which sizes there are: layers of as many units together."""
    told = []
    if sites[0].head_width:
        return f"it has {sites[0].heads} heads of {sites[0].head_width} dimensions"
    for (units, step), group in groupby(sites, key=lambda site: (site.units, site.groups)):
        layers = [site.block for site in group]
        which = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
        told.append(f"{which} can have 0 to {units * step}{f' in steps of {step}' if step > 1 else ''}")
    shared = sites[0].query_heads
    by_group = f" (key/value heads, each with the {shared} query heads that share it)" if shared > step else ""
    return f"{', '.join(told)}{by_group}"


def _told(pair: Range) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}-{pair[1]}"
