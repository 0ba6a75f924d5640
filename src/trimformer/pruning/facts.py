"""The facts of a pruned model, as a person would ask for them: one record, made once by the stage that knows each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from trimformer.data.batches import Workload
from trimformer.model.manifest import checked
from trimformer.model.sites import Masks, Site
from trimformer.model.structure import Structure
from trimformer.observing.resources import Used

CURVE_POINTS = 33
DIMENSION = "dimension"
"""Kind under which the width of a block's heads is told, where it may be smaller."""
PATTERN_UNITS = 64


@dataclass(frozen=True, kw_only=True)
class BudgetFacts:
    """A budget, and what came of it; shares of the dense model's cost, from 0 to 1."""

    cost: str
    """Name of what was to be made small: `flops`, `params` or `latency`."""
    asked: float
    reached: float
    """Share that stays by formulas or tables."""
    round_to: int | None = None
    uniform: bool = False
    measured: float | None = None
    """Share that stays as measured on the result; None for a cost that is counted."""


@dataclass(frozen=True, kw_only=True)
class SizesFacts:
    """Sizes that were asked for by name, and the sublayers that lost all units for it."""

    asked: Mapping[str, Any]
    """By field of `Sizes`, as it was given."""
    dropped: tuple[str, ...] = ()
    """Names of the sublayers."""
    alone: bool = False
    """True if no budget was given: the budget's `asked` is what the sizes come to."""


@dataclass(frozen=True, kw_only=True)
class CalibrationFacts:
    """The rows that the model was calibrated on."""

    tokens: int
    sequences: int
    mean_length: float
    seed: int
    fingerprint: str
    """Digest of the rows' tokens, see `fingerprint`."""


@dataclass(frozen=True, kw_only=True)
class ParameterFacts:
    """Number of parameters of the whole model, before and after pruning."""

    dense: int
    pruned: int

    @property
    def share(self) -> float:
        """Parameters of the pruned model as a share of the dense one's."""
        return self.pruned / self.dense


@dataclass(frozen=True, kw_only=True)
class GuardFacts:
    """The loss that a model was allowed on rows set aside, and the loss it has there."""

    max_drop: float
    drop: float
    rows: int
    metric: str | None = None
    """What is lost; None in records of an earlier version, as the interval."""
    low: float | None = None
    high: float | None = None
    """Upper end of the paired 95 % interval of the drop over these rows; `low` is the lower one."""


@dataclass(frozen=True, kw_only=True)
class KeptUnits:
    """Number of units of one kind that stay in a block, and of how many."""

    kept: int
    of: int


@dataclass(frozen=True, kw_only=True)
class BlockFacts:
    """The units that a block keeps, by kind; in JSON `{"block": 0, "head": 5, "head_of": 12, "neuron": …}`."""

    block: int
    units: Mapping[str, KeptUnits]

    def as_json(self) -> dict[str, int]:
        """Write all counts side by side."""
        counts = {kind: {kind: units.kept, f"{kind}_of": units.of} for kind, units in self.units.items()}
        return {"block": self.block} | {name: count for pair in counts.values() for name, count in pair.items()}

    @classmethod
    def from_json(cls, value: Any, where: str) -> BlockFacts:
        """Read what `as_json` wrote.

        Raises:
            DataError: a count is missing or no whole number.
        """
        counts = {name: checked(int, count, f"{where}.{name}") for name, count in checked(dict, value, where).items()}
        block = checked(int, counts.get("block"), f"{where}.block")
        kinds = [name for name in counts if f"{name}_of" in counts]
        return cls(block=block, units={kind: KeptUnits(kept=counts[kind], of=counts[f"{kind}_of"]) for kind in kinds})


@dataclass(frozen=True, kw_only=True)
class PruningFacts:
    """Everything known of a pruned model that pruning itself finds out. Field names are the manifest's keys."""

    method: str
    options: Mapping[str, Any]
    kept: Mapping[str, float]
    """Share that stays, by cost."""
    model_class: str = "AutoModel"
    dtype: str = "float32"
    units: tuple[BlockFacts, ...]
    patterns: Mapping[str, str] = field(default_factory=dict)
    """Kept units of sites that have few, by site, as text; see `patterns`."""
    parameters: ParameterFacts
    already_pruned: bool = False
    """True if the model given had been pruned before: all shares are of what was there."""
    warnings: tuple[str, ...] = ()
    calibration: CalibrationFacts
    workload: Workload
    processes: int = 1
    versions: Mapping[str, str]
    budget: BudgetFacts
    sizes: SizesFacts | None = None
    seconds: Mapping[str, float]
    """Wall time by stage."""
    memory_mb: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Peak memory in MB, by stage and place (`host`, `cuda`)."""
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Cost of removing units, by site; see `compact_curves`."""
    guard: GuardFacts | None = None

    def with_stage(self, stage: str, used: Used) -> PruningFacts:
        """Give the same facts with what one more stage took."""
        return replace(
            self,
            seconds={**self.seconds, stage: used.seconds},
            memory_mb={**self.memory_mb, stage: dict(used.memory_mb)},
        )

    def with_warnings(self, *warnings: str) -> PruningFacts:
        """Give the same facts with further warnings."""
        return replace(self, warnings=(*self.warnings, *warnings))


def units_by_block(structure: Structure, masks: Masks) -> tuple[BlockFacts, ...]:
    """Count kept units by block, of slots their query heads; those of several sites of one kind in a block together.

    Dimensions are counted as heads, and as dimensions of each.
    """
    blocks: dict[tuple[int, int], dict[str, KeptUnits]] = {}
    for site in structure:
        units = blocks.setdefault((site.chain, site.block), {})
        before = units.get(site.kind, KeptUnits(kept=0, of=0))
        kept = before.kept + int(by_head(site, masks[site.name]).sum()) * site.groups
        units[site.kind] = KeptUnits(kept=kept, of=before.of + (site.heads or site.units))
        if site.head_width:
            widest = int(site.by_head(masks[site.name]).sum(1).amax()) if site.units else 0
            units[DIMENSION] = KeptUnits(kept=widest, of=site.head_width)
    return tuple(BlockFacts(block=block, units=units) for (_, block), units in blocks.items())


def by_head(site: Site, mask: Tensor) -> Tensor:
    """Give a mask with an entry for each head, where a site's has one for every dimension; any other as it is."""
    return site.by_head(mask).any(1) if site.head_width else mask


def heads_by_site(structure: Structure, masks: Masks) -> Masks:
    """Give the same masks with entries for heads in place of dimensions."""
    return {site.name: by_head(site, masks[site.name]) for site in structure}


def compact_curves(costs: Mapping[str, Tensor | None]) -> dict[str, tuple[float, ...]]:
    """Sum up by site what removing units costs together: at none, at all, and evenly between, at most 33 points.

    Args:
        costs: by site, the cost of each removal, `(units,)`, in order; None where the method estimates none.
    """
    curves = {}
    for site, cost in costs.items():
        if cost is not None and len(cost):
            steps = min(len(cost), CURVE_POINTS - 1)
            removed = [round(len(cost) * step / steps) for step in range(1, steps + 1)]
            total = cost.double().cumsum(0).tolist()
            curves[site] = (0.0, *(float(f"{total[count - 1]:.4g}") for count in removed))
    return curves


def patterns(masks: Masks) -> dict[str, str]:
    """Write down which units stay, by site of at most 64 units: `#` for a kept one, `.` for a removed one."""
    return {
        name: "".join("#" if kept else "." for kept in mask.tolist())
        for name, mask in masks.items()
        if len(mask) <= PATTERN_UNITS
    }
