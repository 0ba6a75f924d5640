"""Refuse everything that can be refused before the work starts: weights, rows, memory, processes."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from trimformer import processes
from trimformer.data.rows import Batch
from trimformer.errors import DataError, UnsupportedModel, first_line
from trimformer.model.limits import check_inputs, check_padding
from trimformer.model.offload import check_finite_weights
from trimformer.model.sites import Site
from trimformer.model.structure import Structure
from trimformer.model.weights import word_share
from trimformer.observing.calibration import Calibration
from trimformer.observing.watching import check_finite, frozen, watching
from trimformer.pruning.contract import Method
from trimformer.pruning.fingerprint import work_key
from trimformer.pruning.memory import check_memory
from trimformer.pruning.probe import FROM_MODELS, check_layout, shortest_row


def check(calibration: Calibration, name: str, method: Method) -> list[str]:
    """Refuse, before any work, whatever would make it fail or be worth nothing.

    Args:
        calibration: of the dense model, with its batches.
        name: of the method.
        method: with its options.

    Returns:
        Warnings: what may work, but less well than it could.

    Raises:
        NumericalError: weights or activations are NaN or infinite.
        UnsupportedModel: no sublayer has any unit, or the model computes otherwise than its architecture says.
        DataError: rows that the model cannot read, or other ones on each process.
        InvalidOption: gradients of a whole model that is not in memory.
        InsufficientMemory: there is not enough of it.
    """
    dense, batches = calibration.dense, calibration.batches
    check_weights(dense)
    check_inputs(batches, dense.model.config)
    check_padding(dense.model, batches)
    check_activations(dense, batches[0])
    check_together(calibration, name, method)
    check_memory(dense, batches, method)
    check_layout(dense, shortest_row(batches))
    return too_few_tokens(calibration) + mostly_words(dense)


def check_together(calibration: Calibration, name: str, method: Method) -> None:
    """Refuse several processes that cannot work on one result.

    Raises:
        DataError: they were given different things, or there are more of them than batches.
    """
    if processes.count() == 1:
        return
    key = work_key(calibration, name, method)
    texts = {f"{processes.index()} {part}": json.dumps(value).encode() for part, value in key.items()}
    found = processes.gathered({about: torch.tensor(list(text), dtype=torch.uint8) for about, text in texts.items()})
    others = range(1, processes.count())
    differing = [p for p in key if not all(torch.equal(found[f"0 {p}"], found[f"{other} {p}"]) for other in others)]
    if differing:
        raise DataError(
            f"the processes were given different things ({', '.join(differing)}): give all of them the same"
        )
    if processes.count() > len(calibration.batches):
        raise DataError(
            f"{processes.count()} processes, but the calibration rows make {len(calibration.batches)} batches: start "
            f"at most {len(calibration.batches)} processes, or use more `calibration_tokens`"
        )


def check_activations(structure: Structure, batch: Batch) -> None:
    """Run one batch and refuse a model that does not run, computes NaN or infinity, or gives no named outputs.

    Raises:
        NumericalError: names the lowest site where it does.
        UnsupportedModel: it does not run, or what it returns has no names.
    """
    model = structure.model
    with (
        frozen(model),
        torch.no_grad(),
        watching(structure, structure.sites, inputs=lambda site, hidden: check_finite(hidden, site.name)),
    ):
        try:
            output = model(**batch)
        except torch.OutOfMemoryError:
            raise
        except FROM_MODELS as error:
            raise UnsupportedModel(_does_not_run(model, error)) from error
    if not isinstance(output, Mapping):
        raise UnsupportedModel(
            f"{type(model).__name__} returns a {type(output).__name__}: it must return named outputs, as transformers' "
            "models do where config.return_dict is true"
        )


def _does_not_run(model: PreTrainedModel, error: Exception) -> str:
    """Say that a model does not run on its rows; where its weights are of several types, that this may be why."""
    types = sorted({str(each.dtype).removeprefix("torch.") for each in model.parameters()})
    if len(types) > 1:
        return f"the model does not run, and its weights are {' and '.join(types)}: make them one type, model.float()"
    return f"{type(model).__name__} does not run on the rows given ({first_line(error)}): try model(**batch) yourself"


def check_weights(structure: Structure) -> None:
    """Refuse a model with NaN or infinite weights, or with nothing left to prune.

    Raises:
        NumericalError: names the site or the parameter.
        UnsupportedModel: every sublayer is empty.
    """
    if not any(site.units for site in structure):
        raise UnsupportedModel("nothing is left to prune: no sublayer of this model has a head or neuron")
    paths = {path: site.name for site in structure for path in (*_produced_by(site), site.consumer)}

    def where(name: str) -> str:
        sites = [site for path, site in paths.items() if f"{path}." in name]
        return f"site {sites[0]} ({name})" if sites else name

    check_finite_weights(structure.model, where)


def _produced_by(site: Site) -> list[str]:
    return [producer.path for producer in site.producers]


TOKENS_PER_FEATURE = 2


def too_few_tokens(calibration: Calibration) -> list[str]:
    """Warn if the widest site has more than half as many features as there are calibration tokens; else give none."""
    widest = max(calibration.dense.sites, key=lambda site: site.features)
    enough = TOKENS_PER_FEATURE * widest.features
    if calibration.tokens >= enough:
        return []
    return [
        (
            f"{calibration.tokens} calibration tokens are few for the {widest.features} features of {widest.name}: "
            f"use at least `calibration_tokens={enough}`; accuracy may suffer"
        )
    ]


MOST = 2 / 3
"""Share above which a model is mostly word embeddings: of MiniLM-L6 they are 52 %, of multilingual-e5-small 82 %."""


def mostly_words(dense: Structure) -> list[str]:
    """Warn if more than `MOST` of the parameters are word embeddings, which no budget makes smaller; else give none."""
    share = word_share(dense.model)
    if share <= MOST:
        return []
    return [
        (
            f"{share:.0%} of the model's parameters are word embeddings, which no budget makes smaller: `trimformer "
            "vocabulary`, in Python `trim_vocabulary`, keeps those of your texts only"
        )
    ]
