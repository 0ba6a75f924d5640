"""The story: data and model in, a smaller model and its facts out. One call a stage."""

from __future__ import annotations

import copy
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from importlib.metadata import version
from time import perf_counter
from typing import Any, get_args, get_type_hints

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer import plugins
from trimformer.cache import MeasuredCache, fingerprint, measured_key
from trimformer.calibration import check_activations
from trimformer.errors import InvalidOption, TrimformerError, require_range, unknown_name
from trimformer.inputs import Data, calibration_batches, check_inputs
from trimformer.interfaces import Budget, Masks, Measured, Method, Progress, PruningResult
from trimformer.job import Calibration, Job
from trimformer.search import total_cost
from trimformer.structure import Structure, check_weights, masks_summary, parameter_count, read_structure
from trimformer.surgery import describe_cut, pruning_config

DEFAULT_METHOD = "surgeon"
DEFAULT_CALIBRATION_TOKENS = 20_000
TOKENS_PER_FEATURE = 2


def prune(
    model: PreTrainedModel,
    data: Data,
    *,
    budget: Budget,
    method: str = DEFAULT_METHOD,
    tokenizer: PreTrainedTokenizerBase | None = None,
    calibration_tokens: int | None = DEFAULT_CALIBRATION_TOKENS,
    sequence_length: float | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> PruningResult:
    """Make a model smaller; the model given stays as it is.

    Args:
        model: a fine-tuned transformers model, dense or already pruned.
        data: what to calibrate on, never labels: strings (with `tokenizer`), encoded rows (`input_ids`, …), a Dataset
            with these columns or with a `text` column, or an iterable of padded batches such as a DataLoader.
        budget: the share of the model's cost to keep, such as `Budget(flops=0.4)`.
        method: one of `trimformer list`.
        tokenizer: for strings, and for the padding id.
        calibration_tokens: rows are drawn until they hold this many tokens; None takes all rows. A DataLoader's
            batches are all taken.
        sequence_length: tokens at which FLOPs are counted; None takes the mean of the calibration rows.
        seed: of all sampling.
        options: of the method, by name.
        progress: wraps a sequence to show a bar.

    Raises:
        TrimformerError: any of its kinds; the message names the value, the range and the next step.

    >>> result = prune(model, texts, budget=Budget(flops=0.4), tokenizer=tokenizer)    # doctest: +SKIP
    >>> result.model.save_pretrained("smaller")                                        # doctest: +SKIP
    """
    pruner = Pruner(
        model, data, method=method, tokenizer=tokenizer, calibration_tokens=calibration_tokens,
        sequence_length=sequence_length, seed=seed, options=options, progress=progress,
    )  # fmt: skip
    return pruner.prune(budget)


class Pruner:
    """One calibration, many sizes: what a method measures once is reused for every budget.

    >>> pruner = Pruner(model, texts, tokenizer=tokenizer)                             # doctest: +SKIP
    >>> sizes = [pruner.prune(Budget(flops=share)) for share in (0.8, 0.6, 0.4)]       # doctest: +SKIP
    """

    def __init__(
        self,
        model: PreTrainedModel,
        data: Data,
        *,
        method: str = DEFAULT_METHOD,
        tokenizer: PreTrainedTokenizerBase | None = None,
        calibration_tokens: int | None = DEFAULT_CALIBRATION_TOKENS,
        sequence_length: float | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        cache: MeasuredCache | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Arguments as those of `prune`; `cache` keeps what is measured for later runs."""
        self.name = method
        self.method = make_method(method, options or {})
        dense = read_structure(model)
        check_weights(dense)
        batches = calibration_batches(data, tokenizer, calibration_tokens, seed, model.device)
        check_inputs(batches, model.config)
        check_activations(dense, batches[0])
        self.calibration = Calibration(dense, batches, seed, progress or (lambda items, _: items))
        if sequence_length is not None:
            require_range("sequence_length", sequence_length, low=1)
        self.sequence_length = sequence_length or self.calibration.mean_length
        self.cache = cache
        self.measuring_seconds = 0.0
        self.warnings = too_few_tokens(self.calibration)

    @cached_property
    def measured(self) -> Measured:
        """What the method measures before a budget is known; from the cache where it is there."""
        if self.cache is None:
            return self._measure()
        key = measured_key(self.calibration, self.name, self.method)
        found = self.cache.read(key)
        if found is None:
            found = self._measure()
            self.cache.write(key, found)
        return found

    def _measure(self) -> Measured:
        start = perf_counter()
        measured = self.method.measure(self.calibration)
        self.measuring_seconds = perf_counter() - start
        return measured

    def prune(self, budget: Budget) -> PruningResult:
        """A pruned copy of the model within a budget.

        Raises:
            TrimformerError: as `prune`.
        """
        calibration, dense = self.calibration, self.calibration.dense
        unit_costs = plugins.load("costs", budget.cost).per_unit(dense, self.sequence_length)
        total = total_cost(dense.full_masks(), unit_costs)
        student = read_structure(copy.deepcopy(dense.model))
        job = Job(
            dense, calibration.batches, calibration.seed, calibration.progress,
            student=student, unit_costs=unit_costs, limit=budget.keep_fraction * total,
        )  # fmt: skip
        measured = self.measured
        start = perf_counter()
        masks = self.method.prune(job, measured)
        seconds = perf_counter() - start
        describe_cut(student, masks)
        _verify_budget(job, masks)
        reached = total_cost(masks, unit_costs) / total
        facts = self._facts(job, masks) | {
            "budget": {"cost": budget.cost, "asked": budget.keep_fraction, "reached": reached},
            "seconds": {"measuring": self.measuring_seconds, "pruning": seconds},
        }  # fmt: skip
        return PruningResult(student.model, masks, facts)

    def _facts(self, job: Job, masks: Masks) -> dict[str, Any]:
        return {
            "method": self.name,
            "options": asdict(self.method),  # type: ignore[call-overload]  # every method is a dataclass
            "kept": _kept_by_cost(job.dense, masks, self.sequence_length),
            "units": masks_summary(job.dense, masks),
            "parameters": {"dense": parameter_count(job.dense.model), "pruned": parameter_count(job.student.model)},
            "already_pruned": bool(pruning_config(job.dense).kept),
            "warnings": self.warnings,
            "calibration": {
                "tokens": job.tokens, "sequences": job.sequences, "mean_length": job.mean_length, "seed": job.seed,
                "fingerprint": fingerprint(job.batches), "counted_at_length": self.sequence_length,
            },
            "versions": versions(),
        }  # fmt: skip


def too_few_tokens(calibration: Calibration) -> list[str]:
    """A warning if the widest site has more than half as many features as there are calibration tokens."""
    widest = max(calibration.dense.sites, key=lambda site: site.features)
    enough = TOKENS_PER_FEATURE * widest.features
    if calibration.tokens >= enough:
        return []
    return [
        (
            f"{calibration.tokens} calibration tokens are few for the {widest.features} features of {widest.name}: "
            f"use at least --calibration-tokens {enough}; accuracy may suffer"
        )
    ]


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """A method with its options; options given as text are converted to their type.

    Raises:
        InvalidOption: an unknown method or option, or a value of the wrong type or range.
    """
    kind = plugins.load("methods", name)
    types = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    method: Method = kind(**{option: _convert(option, value, types[option]) for option, value in options.items()})
    return method


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {
        "trimformer": version("trimformer"), "torch": torch.__version__, "transformers": transformers.__version__,
        "python": platform.python_version(),
    }  # fmt: skip


@dataclass(frozen=True)
class _Type:
    """How an option's text is read, and what is said when it cannot be."""

    read: Any
    says: str


_TYPES = {
    bool: _Type(lambda text: {"true": True, "false": False}[str(text).lower()], "true or false"),
    int: _Type(int, "a whole number"),
    float: _Type(float, "a number"),
    str: _Type(str, "text"),
}


def _convert(name: str, value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    if choices:
        if value not in choices:
            raise InvalidOption(f"{name}={value!r} must be one of {', '.join(map(str, choices))}")
        return value
    try:
        return _TYPES[kind].read(value)
    except (ValueError, KeyError, TypeError):
        raise InvalidOption(f"{name}={value!r} must be {_TYPES[kind].says}") from None


def _kept_by_cost(dense: Structure, masks: Masks, length: float) -> dict[str, float]:
    """Share of every known cost that stays."""
    shares = {}
    for name, cost in plugins.provided("costs").items():
        per_unit = cost.per_unit(dense, length)
        shares[name] = total_cost(masks, per_unit) / total_cost(dense.full_masks(), per_unit)
    return shares


def _verify_budget(job: Job, masks: Masks) -> None:
    cost = total_cost(masks, job.unit_costs)
    if cost > job.limit * (1 + 1e-9):
        raise TrimformerError(f"the method kept {cost:.4g} of at most {job.limit:.4g}: this is a bug of the method")
