"""The sizes asked for are the sizes got, by every method and for every family of models; alone and with a budget."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from tiny_models import FAMILIES, SETTINGS, WHOLE_LAYERS, inputs, labelled, outputs, tiny_model
from trimformer import Budget, Sizes, plugins, prune
from trimformer.data.labels import pad_labels
from trimformer.data.rows import Batch
from trimformer.errors import InvalidOption, TrimformerError, UnreachableTarget
from trimformer.model.structure import read_structure
from trimformer.pruning.choose.bounds import Bounds
from trimformer.pruning.contract import Job, JudgesUnits, Method
from trimformer.pruning.method_options import make_method
from trimformer.pruning.pruner import Pruner

METHODS = plugins.names("methods")
FREE = [name for name in METHODS if plugins.load("methods", name).removes is None]
"""Methods that remove units of any kind."""
JUDGING = [name for name in (*FREE, *WHOLE_LAYERS) if isinstance(make_method(name, {}), JudgesUnits)]
BLOCKS = 3
PROTECTED = {"heads": [3], "neurons": [0, 7, 23]}


def rows(seed: int) -> Batch:
    batch = inputs(tiny_model("bert"), (12, 9, 11), seed=seed)
    return batch | pad_labels(labelled([{"input_ids": row} for row in batch["input_ids"].tolist()], CLASSIFIER), "cpu")


CLASSIFIER = "sequence classification"


@cache
def pruner(method: str, architecture: str = "bert") -> Pruner:
    """One calibration for all sizes."""
    model = tiny_model(architecture, **{LAYERS.get(architecture, "num_hidden_layers"): BLOCKS})
    return Pruner(model, [rows(seed) for seed in range(3)], method=method, options=SETTINGS.get(method))


LAYERS = {"distilbert": "n_layers", "gpt2": "n_layer"}
"""Name of the number of blocks in configs that have another one."""


def sizes(by: Pruner, budget: Budget | None = None, **asked: Any) -> list[dict[str, int]]:
    """Prune, and give the units of every block of the model that comes out, by kind."""
    result = by.prune(budget, Sizes(**asked))
    structure = read_structure(result.model)
    for site in structure:
        mask = result.masks[site.name]
        assert int(mask.sum()) in (site.units, site.units * site.unit_width), "of units, or of dimensions of heads"
    assert result.facts.sizes is not None
    assert result.facts.sizes.asked == Sizes(**asked).asked
    assert torch.isfinite(outputs(result.model, inputs(result.model))).all()
    return [{site.kind: site.units for site in structure.of_block(0, block)} for block in range(BLOCKS)]


@pytest.mark.parametrize("method", FREE)
def test_every_method_keeps_the_sizes_asked_for(method: str) -> None:
    by = pruner(method)
    assert sizes(by, heads=2, neurons=[24, 10, 0]) == [{"head": 2, "neuron": count} for count in (24, 10, 0)]
    kept = sizes(by, Budget(flops=0.6), keep_layers=0, heads="1-3", neurons="2-20")
    assert kept[0] == {"head": 4, "neuron": 24}
    assert all(1 <= block["head"] <= 3 and 2 <= block["neuron"] <= 20 for block in kept[1:])
    assert sizes(by, drop_blocks="0-0", drop_sublayers="2.attention", only=None) == [
        {"head": 0, "neuron": 0},
        {"head": 4, "neuron": 24},
        {"head": 0, "neuron": 24},
    ]
    only = sizes(by, Budget(params=0.9), only="neurons")
    assert [block["head"] for block in only] == [4] * BLOCKS
    assert sum(block["neuron"] for block in only) < 24 * BLOCKS


@pytest.mark.parametrize("method", METHODS)
def test_protected_units_are_there(method: str) -> None:
    by = pruner(method)
    own = {kind: {"keep": stay} for kind, stay in PROTECTED.items() if method in FREE or kind == "neurons"}
    share = 0.3 if method in FREE else 0.8
    free, layers = by.prune(Budget(flops=share)), f"0-{BLOCKS - 1}"
    if method in WHOLE_LAYERS:
        layers = next(site.block for site in by.calibration.dense if not free.masks[site.name].any())
    bound = by.prune(Budget(flops=share), Sizes(sites={layers: own}))
    assert bound.facts.budget.reached <= share
    lost = 0
    for site in by.calibration.dense:
        stay = own.get(f"{site.kind}s", {"keep": []})["keep"] if layers in (site.block, f"0-{BLOCKS - 1}") else []
        assert bool(bound.masks[site.name][stay].all()), site.name
        lost += int((~free.masks[site.name][stay]).sum())
    assert lost, "the budget alone keeps all of them: nothing is shown"


@pytest.mark.parametrize("method", JUDGING)
def test_blocks_are_dropped_by_what_they_are_worth(method: str) -> None:
    """Of three blocks the one goes whose sublayers add nothing, for all methods that look at more than chance."""
    model = tiny_model("bert", num_hidden_layers=BLOCKS)
    silent = model.bert.encoder.layer[1]
    with torch.no_grad():
        for module in (silent.attention.output.dense, silent.output.dense):
            module.weight.mul_(1e-3)
    by = Pruner(model, [rows(seed) for seed in range(3)], method=method)
    result = by.prune(None, Sizes(drop_blocks=1))
    assert result.facts.sizes is not None
    dropped = result.facts.sizes.dropped
    assert len(dropped) == 2
    assert method == "random" or dropped == ("encoder.layer.1.attention", "encoder.layer.1.ffn")
    assert sum(not mask.any() for mask in by.prune(None, Sizes(drop_sublayers=3)).masks.values()) == 3


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_has_the_sizes_asked_for(architecture: str) -> None:
    by = pruner("surgeon", architecture)
    assert sizes(by, heads=1, neurons="5,24,6") == [{"head": 1, "neuron": count} for count in (5, 24, 6)]
    kept = sizes(by, Budget(flops=0.7), keep_layers="2", drop_blocks=1)
    assert kept[2] == {"head": 4, "neuron": 24}
    assert [block == {"head": 0, "neuron": 0} for block in kept].count(True) == 1


@pytest.mark.parametrize("method", ["surgeon", "magnitude"])
def test_a_budget_out_of_reach_says_what_is_before_anything_is_measured(method: str) -> None:
    by = Pruner(tiny_model("bert"), [rows(0)], method=method)
    with pytest.raises(UnreachableTarget, match=r"a share of 0.2 cannot .* they allow from 0\.5000 to 1\.0000 of the"):
        by.prune(Budget(flops=0.2), Sizes(keep_layers="0"))
    with pytest.raises(InvalidOption, match="layers 0 to 1 can have 0 to 4"):
        by.prune(None, Sizes(heads=9))
    assert "measured" not in vars(by)


def test_uniform_sizes_keep_to_what_was_asked() -> None:
    by = pruner("magnitude", "llama")
    kept = sizes(by, Budget(flops=0.7, uniform=True), heads=2, sites={"1": {"neurons": {"keep": [20]}}})
    assert all(block == kept[0] and block["head"] == 2 for block in kept)
    alone = by.prune(None, Sizes(heads=2, neurons=9, uniform=True))
    assert (alone.model.config.num_key_value_heads, alone.model.config.intermediate_size) == (2, 9)
    assert not hasattr(alone.model.config, "quantization_config")
    with pytest.raises(UnreachableTarget, match="or not those asked for"):
        by.prune(Budget(flops=0.4, uniform=True), Sizes(neurons="23-24"))


def test_neither_budget_nor_sizes_is_refused() -> None:
    model, data = tiny_model("bert"), [rows(0)]
    with pytest.raises(InvalidOption, match="`budget=None` is no Budget"):
        prune(model, data)
    with pytest.raises(InvalidOption, match="`sizes=8` are no Sizes: give some such as Sizes"):
        prune(model, data, sizes=8)  # type: ignore[arg-type]
    result = prune(model, data, sizes=Sizes(heads=2), method="magnitude")
    assert result.manifest["sizes"] == {"asked": {"heads": 2}, "dropped": [], "alone": True}
    assert result.manifest["budget"]["asked"] == result.manifest["budget"]["reached"] < 1


def test_a_method_that_does_not_keep_to_them_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    by = pruner("magnitude")
    kept: Method = by.method

    class Deaf(type(kept)):  # type: ignore[misc]
        def prune(self, job: Job, measured: Any) -> Any:
            return super().prune(replace(job, bounds=Bounds()), measured)

    monkeypatch.setattr(by, "method", Deaf())
    with pytest.raises(TrimformerError, match=r"kept \d units of encoder\.layer\.\d\.attention, not 1 to 1"):
        by.prune(None, Sizes(heads=1))
