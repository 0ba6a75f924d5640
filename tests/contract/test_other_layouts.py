"""What an architecture may describe beyond the layouts that the package has so far, on a model made for it.

Two chains of blocks of different width, one without a token mask; three sublayers a block, two of them side by side;
fused projections with parts of different widths; a multiplier and a norm before the residual stream; units that are
neither heads nor neurons.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny_models import random_masks
from toy_model import ToyModel, known, toy_batch, toy_model
from trimformer import plugins
from trimformer.errors import InvalidOption
from trimformer.model.masking import masked
from trimformer.model.structure import Structure, parameter_count, read_structure
from trimformer.model.surgery import cut
from trimformer.observing.boundary import Boundary
from trimformer.observing.calibration import Calibration
from trimformer.observing.predictions import divergence, predictions
from trimformer.observing.watching import watching
from trimformer.pruning.budget import Budget
from trimformer.pruning.contract import Job
from trimformer.pruning.pruner import Pruner
from trimformer.pruning.refit.walk import Walk
from trimformer.pruning.sizes import Sizes

TOWERS = [f"{tower}_blocks.{block}" for tower in ("text", "picture") for block in (0, 1)]
BATCHES = [toy_batch(seed=seed) for seed in range(6)]
HELD_OUT = toy_batch(rows=40, seed=99)
METHODS = sorted(plugins.names("methods"))
OPTIONS = {"dual_cp": {"lambda_": 0.5}}
"""Its own default takes more from neurons than so few of them cost."""


@pytest.fixture(autouse=True)
def architecture() -> Iterator[None]:
    with known():
        yield


@pytest.fixture
def structure() -> Structure:
    return read_structure(toy_model())


def logits(model: ToyModel) -> torch.Tensor:
    with torch.no_grad():
        return model(**HELD_OUT).logits


def test_sites_are_found_in_the_order_in_which_they_are_added(structure: Structure) -> None:
    found = [(site.name, site.kind, site.units, site.unit_width, site.width) for site in structure.sites[:3]]
    assert found == [
        ("text_blocks.0.attention", "head", 3, 8, 24),
        ("text_blocks.0.pairs", "pair", 7, 2, 24),
        ("text_blocks.0.ffn", "neuron", 20, 1, 24),
    ]
    assert [site.last_in_block for site in structure.sites[:3]] == [False, False, True]
    assert [(site.chain, site.block, site.width) for site in structure.sites[6:]] == [
        (1, 0, 16), (1, 0, 16), (1, 1, 16), (1, 1, 16)
    ]  # fmt: skip
    attention = structure["text_blocks.0.attention"]
    assert attention.producers[0].widths == (8, 4, 4)
    assert (attention.multiplier, attention.query_heads) == (0.7, 2)
    assert structure["text_blocks.0.ffn"].norm == "text_blocks.0.behind"


@pytest.mark.parametrize("emptied", [(), ("head",), ("pair",), ("neuron",), ("head", "pair", "neuron")])
def test_masked_equals_cut(structure: Structure, emptied: tuple[str, ...]) -> None:
    masks = random_masks(structure)
    masks |= {site.name: torch.zeros(site.units, dtype=torch.bool) for site in structure if site.kind in emptied}
    with masked(structure, masks):
        expected = logits(structure.model)
    small = cut(read_structure(copy.deepcopy(structure.model)), masks)
    torch.testing.assert_close(logits(small.model), expected, atol=1e-5, rtol=1e-5)
    assert {site.name: site.units for site in small} == {name: int(mask.sum()) for name, mask in masks.items()}


def test_a_cut_model_is_saved_and_loaded(structure: Structure, tmp_path: Path) -> None:
    masks = random_masks(structure)
    masks["text_blocks.1.attention"][:] = False
    small = cut(structure, masks).model
    small.save_pretrained(tmp_path)
    loaded = ToyModel.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded), logits(small))
    assert parameter_count(loaded) == parameter_count(small)


@pytest.mark.parametrize("chain", [0, 1])
@pytest.mark.parametrize("settled", [False, True])
def test_boundaries_see_what_the_whole_model_does(structure: Structure, chain: int, settled: bool) -> None:
    """Streams before and after every sublayer are such that adding them up gives what enters the next block."""
    boundary = Boundary(structure, BATCHES[:2], chain)
    for block in range(2):
        if settled:
            boundary.settle(boundary.sites)
        for index, batch in enumerate(BATCHES[:2]):
            with torch.no_grad():
                torch.testing.assert_close(boundary.tail(index).logits, structure.model(**batch).logits)
            seen: dict[str, torch.Tensor] = {}
            with watching(
                structure, boundary.sites, inputs=lambda site, hidden, seen=seen: seen.update({site.name: hidden})
            ):
                structure.model(**batch)
            stream = None
            for site in boundary.sites:
                mask = structure.token_mask(batch, chain)
                residual, inputs = boundary.before(index, site)
                own = seen[site.name].flatten(0, 1) if mask is None else seen[site.name][mask]
                torch.testing.assert_close(inputs, own)
                if structure.pre_norm(chain) and stream is not None:
                    torch.testing.assert_close(residual, stream, atol=1e-5, rtol=1e-5)
                output = structure.consumer(site)(inputs)
                crossing = boundary.across(index, site)
                stream = residual + site.multiplier * output
                torch.testing.assert_close(crossing.leaving, output if site.norm else stream, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(crossing.entering, boundary.entering(index, site))
        if block == 0:
            boundary.advance()


def test_a_refit_of_a_damaged_student_brings_back_the_dense_model(structure: Structure) -> None:
    """Consumers are re-solved behind multipliers and norms, in both towers: with no unit removed, exactly."""
    student = read_structure(copy.deepcopy(structure.model))
    job = Job(structure, BATCHES, 0, lambda items, _: items, student=student, costs={}, limit=0.0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for site in student:
            weight = student.consumer_weight(site)
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    before = (logits(student.model) - logits(structure.model)).abs().max()
    for stop in Walk(job, "refitting"):
        stop.solve(stop.regression(), ridge=0.0, intercept=stop.site.consumer_bias)
    after = (logits(student.model) - logits(structure.model)).abs().max()
    assert before > 0.1
    assert after < 1e-3


@pytest.mark.parametrize("share", [0.75, 0.4])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_prunes_it(method: str, share: float) -> None:
    model = toy_model()
    batches = [{**batch, "labels": torch.arange(len(batch["input_ids"])) % 3} for batch in BATCHES]
    pruner = Pruner(model, batches, method=method, options=OPTIONS.get(method, {}))
    if method == "kcm" and share < 0.7:
        pytest.skip("kcm keeps all heads, which cost more")
    result = pruner.prune(Budget(params=share))
    assert result.manifest["budget"]["reached"] <= share + 1e-9
    assert torch.isfinite(logits(result.model)).all()
    assert parameter_count(result.model) < parameter_count(model)


def test_sizes_are_asked_for_by_layer_and_kind() -> None:
    """Layers are numbered through both towers; units of a kind of its own go by the plural of their name."""
    pruner = Pruner(toy_model(), BATCHES, method="surgeon")
    asked = Sizes(
        sites={"0-1": {"pairs": {"units": 3, "keep": [6]}}, "3": "all"}, heads=[3, 1, 2, 4], drop_blocks="2-2"
    )
    with pytest.raises(InvalidOption, match="`drop_blocks` and `heads` ask for 0 and 2 units of picture_blocks"):
        pruner.prune(None, asked)
    result = pruner.prune(Budget(params=0.7), replace(asked, heads=[3, 1, 0, 4]))
    kept = {name: int(mask.sum()) for name, mask in result.masks.items()}
    assert [kept[f"{tower}.attention"] for tower in TOWERS] == [3, 1, 0, 4]
    assert [kept[f"text_blocks.{block}.pairs"] for block in (0, 1)] == [3, 3]
    assert bool(result.masks["text_blocks.1.pairs"][6])
    assert [kept[f"picture_blocks.{block}.ffn"] for block in (0, 1)] == [0, 12]
    assert result.facts.budget.reached <= 0.7
    assert torch.isfinite(logits(result.model)).all()


def test_refitting_helps_and_surgeon_beats_chance() -> None:
    model = toy_model()
    batches = [toy_batch(rows=16, seed=seed) for seed in range(12)]

    def distance(method: str, **options: object) -> float:
        small = Pruner(model, batches, method=method, options=options).prune(Budget(params=0.6)).model
        with torch.no_grad():
            teacher, student = (predictions(each(**HELD_OUT), HELD_OUT, each) for each in (model, small))
        return float(divergence(teacher, student).mean())

    assert distance("surgeon") < distance("surgeon", tune=False) < distance("random")


def test_tokens_are_counted_by_chain(structure: Structure) -> None:
    calibration = Calibration(structure, BATCHES, 0, lambda items, _: items)
    assert calibration.tokens == sum(int(batch["attention_mask"].sum()) for batch in BATCHES)
    assert calibration.tokens_by_batch[1] == [4 * 6] * 6
