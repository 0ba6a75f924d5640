"""Give a model gates, which decide for every row what to compute, and read what they decided."""

from __future__ import annotations

import copy
from dataclasses import asdict

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.errors import UnsupportedModel
from trimformer.model.description import Attention
from trimformer.model.modeling_trimformer import TrimformerConfig, sizes_of
from trimformer.model.sites import Site
from trimformer.model.structure import Structure
from trimformer.model.trimformer_gates import Gate, GateEntry, add_gates, gates_of

HIDDEN = 64
"""Numbers between the two projections of a gate."""
OPEN = 2.0
"""Bias of new gates' logits: nearly all units are used at first."""


def check_gates(structure: Structure) -> None:
    """Refuse a model that cannot decide row by row.

    Raises:
        UnsupportedModel: says why.
    """
    name = type(structure.model).__name__
    if structure.architecture.causal:
        raise UnsupportedModel(
            f"{name} is a decoder, whose tokens come one by one: only encoders can decide row by row"
        )
    if len(structure.architecture.chains) > 1 or structure.passes() > 1:
        raise UnsupportedModel(f"{name} runs blocks several times or several chains of them: it cannot have gates")
    for site in structure.occupied:
        paths = (*(producer.path for producer in site.producers), site.consumer)
        if any(type(structure.projection(path)) is not nn.Linear for path in paths):
            raise UnsupportedModel(f"{site.name} of {name} has no plain linear layers: it cannot have gates")
        if any(producer.shared for producer in site.producers):
            raise UnsupportedModel(f"{name} has heads that share keys and values: it cannot have gates")


def with_gates(structure: Structure, seed: int) -> PreTrainedModel:
    """Copy a model, and give every sublayer of the copy that has units a new gate.

    Args:
        structure: of the model, which stays as it is.
        seed: of the gates' weights.

    Raises:
        UnsupportedModel: a model that cannot decide row by row.
    """
    check_gates(structure)
    model = copy.deepcopy(structure.model)
    entries = {site.name: _entry(structure, site) for site in structure.occupied}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        add_gates(model.base_model, entries, model.dtype, model.device)
    for gate in gates_of(model.base_model, list(entries)).values():
        nn.init.constant_(gate.last.bias, OPEN)
    before = sizes_of(model.config) or TrimformerConfig()
    before.gates = {site: asdict(entry) for site, entry in entries.items()}
    model.config.quantization_config = before
    return model


def gates(model: PreTrainedModel) -> dict[str, Gate]:
    """Find the gates of a model by site; empty where it has none."""
    found = sizes_of(model.config)
    return gates_of(model.base_model, list(found.gates)) if found else {}


def decided(model: PreTrainedModel) -> dict[str, Tensor]:
    """Give what the last pass kept, `(rows, units)` by site, 1 or 0, and forget it."""
    found = {}
    for site, gate in gates(model).items():
        if gate.kept is not None:
            found[site] = gate.kept
        gate.kept = None
    return found


def _entry(structure: Structure, site: Site) -> GateEntry:
    sublayer, counts = (
        structure.sublayer(site),
        {"heads": 1, "query heads": site.query_heads, "features": site.unit_width},
    )
    by_head = isinstance(sublayer, Attention) and bool(sublayer.by_head)
    return GateEntry(
        reads=site.core or site.producers[0].path,
        producers={producer.path: list(producer.widths) for producer in site.producers},
        consumer=site.consumer,
        units=site.units,
        unit_width=site.unit_width,
        groups=site.groups,
        width=site.width,
        hidden=HIDDEN,
        pool="mean" if site.attends and site is structure.occupied[0] else "first",
        sizes={f"{site.core}.{name}": counts[what] for name, what in sublayer.sizes.items()} if site.core else {},
        skips=site.groups == 1 and not by_head,
    )
