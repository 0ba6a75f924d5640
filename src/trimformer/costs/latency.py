"""Measured time of a forward pass of the whole model: a table by kind of site, made on the machine at hand.

A block with 0, some, …, all of its units is timed at every size of a grid; what the units add is read off between,
made non-decreasing, and holds for all sites of the same shape. The sum over sites is then compared with whole models of
some sizes: the blocks of a model run with other caches than one block alone, and embeddings, norms and head take time
as well.

Tables of looked-up latency in pruning: HALP (arXiv 2110.10811), Mask-Tuning (arXiv 2204.09656), ZipLM (arXiv
2302.04089).
"""

from __future__ import annotations

import copy
import hashlib
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from scipy.optimize import isotonic_regression
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.batches import Workload
from trimformer.model.sites import Site
from trimformer.model.structure import Structure, read_structure
from trimformer.model.surgery import cut_site
from trimformer.observing.latency import measure_at
from trimformer.observing.resources import device_name
from trimformer.observing.watching import only_blocks
from trimformer.progress import Progress
from trimformer.pruning.budget import Prices
from trimformer.pruning.cache import DIGEST_CHARACTERS, MeasuredCache

GRID = 13
"""Number of sizes that each kind of site is timed at, no unit and all units among them."""
MICROSECONDS = 1000.0
RUNS = 9
WHOLE_SIZES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
"""Shares of their units that whole models are timed with."""
WHOLE = "whole models"
Shape = tuple[Any, ...]


class LatencyCost:
    """Measured time of one forward pass of the whole model over a batch, in microseconds."""

    description = "measured time of the whole model on this machine"

    def prices(
        self,
        structure: Structure,
        workload: Workload,
        *,
        cache: MeasuredCache | None = None,
        progress: Progress | None = None,
    ) -> Prices:
        """Measure tables in microseconds, on random tokens without padding; some ten seconds where not cached."""
        key = _key(structure, workload)
        found = cache.read(key) if cache else None
        if found is None:
            found = _measure(structure, workload, progress)
            if cache:
                cache.write(key, found)
        whole = tuple((float(units), float(time)) for units, time in found[WHOLE])
        return Prices({site.name: found[site.name] for site in structure}, whole)

    def kept(
        self, dense: PreTrainedModel, pruned: PreTrainedModel, workload: Workload, progress: Progress | None = None
    ) -> float:
        """Measure the time of a pruned model as a share of the dense one's: medians, the two timed in turn."""
        times = measure_at(workload, {"dense": dense, "pruned": pruned}, progress=progress)
        return times["pruned"].median_ms / times["dense"].median_ms


def _measure(structure: Structure, workload: Workload, progress: Progress | None) -> dict[str, Tensor]:
    """Time blocks and whole models, in microseconds: a table `(units + 1,)` by site, and `(sizes, 2)` as `WHOLE`.

    A row of the latter is one of `WHOLE_SIZES`: the sum over the tables, and the time of the whole model.
    """
    by_shape = {_shape(structure, site): site for site in structure.occupied}
    grid = {shape: _grid(site) for shape, site in by_shape.items()}
    models = {f"{share} of all units": _with_share(structure, share) for share in WHOLE_SIZES}
    for shape, site in by_shape.items():
        models |= {f"{count} units of {site.name}": _one_block(structure, site, count) for count in grid[shape]}
    measured = measure_at(workload, models, runs=RUNS, progress=progress)
    times = {name: MICROSECONDS * time.low_ms for name, time in measured.items()}
    tables = {
        shape: _table(grid[shape], [times[f"{count} units of {site.name}"] for count in grid[shape]])
        for shape, site in by_shape.items()
    }
    by_site = {site.name: torch.zeros(1, dtype=torch.float64) for site in structure}
    by_site |= {site.name: tables[_shape(structure, site)].clone() for site in structure.occupied}
    sums = [sum(float(by_site[s.name][_kept(s, share)]) for s in structure) for share in WHOLE_SIZES]
    whole = isotonic_regression([times[f"{share} of all units"] for share in WHOLE_SIZES]).x
    return by_site | {WHOLE: torch.tensor(np.stack([sums, whole], axis=1))}


def _grid(site: Site) -> list[int]:
    """Choose the counts of units to time: 0, all, and some between, rising."""
    return sorted(set(np.linspace(0, site.units, GRID).round().astype(int).tolist()))


def _kept(site: Site, share: float) -> int:
    return round(share * site.units)


def _table(counts: list[int], times: list[float]) -> Tensor:
    """Interpolate the time that 0, 1, …, all units add from times at some counts: `(units + 1,)`, rising from 0."""
    rising = isotonic_regression(np.array(times)).x
    return torch.from_numpy(np.interp(np.arange(counts[-1] + 1), counts, rising - rising[0]))


def _shape(structure: Structure, site: Site) -> Shape:
    """Give the kind, number of units and sizes of projections of a site: sites with the same ones share a table."""
    return (site.kind, site.units, *(tuple(structure.projection(path).weight.shape) for path in _projections(site)))


def _projections(site: Site) -> list[str]:
    return [*(producer.path for producer in site.producers), site.consumer]


def _one_block(structure: Structure, site: Site, units: int) -> PreTrainedModel:
    """Make the base model with the block of a site alone, of whose units only the first stay; all else is shared."""
    shared = _shared(structure, [site])
    with only_blocks(structure, site.block, site.block + 1, site.chain):
        small = read_structure(copy.deepcopy(structure.base, shared), structure.architecture)
    target = next(each for each in small.of_block(site.chain, 0) if each.order == site.order)
    cut_site(small, target, torch.arange(target.units) < units)
    return small.model


def _with_share(structure: Structure, share: float) -> PreTrainedModel:
    """Make the whole model with a share of the units of every site, all else shared; for 1 it is the model itself."""
    if share == 1:
        return structure.model
    model = copy.deepcopy(structure.model, _shared(structure, structure.occupied))
    small = read_structure(model, structure.architecture)
    for site in small.occupied:
        cut_site(small, site, torch.arange(site.units) < _kept(site, share))
    return small.model


def _shared(structure: Structure, sites: Sequence[Site]) -> dict[int, Any]:
    """Collect, for `copy.deepcopy`, the parameters that are not copied: all but those of some sites."""
    paths = [path for site in sites for path in _projections(site)]
    own = {id(each) for path in paths for each in structure.projection(path).parameters()}
    return {id(each): each for each in structure.model.parameters() if id(each) not in own}


def _key(structure: Structure, workload: Workload) -> dict[str, Any]:
    model = structure.model
    attention = model.config._attn_implementation  # noqa: SLF001  # nothing public tells it
    shapes = hashlib.sha256(f"{type(model).__name__} {attention} {[site.units for site in structure]}".encode())
    for name, parameter in model.named_parameters():
        shapes.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
    return {
        "model": shapes.hexdigest()[:DIGEST_CHARACTERS],
        "measured": "latency",
        "device": f"{platform.node()}, {device_name(model.device)}",
        "threads": torch.get_num_threads(),
        "workload": {"sequence_length": workload.sequence_length, "batch_size": workload.batch_size},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "format": 1},
    }


PROVIDES = {"latency": LatencyCost()}
