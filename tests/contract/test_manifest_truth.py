"""The manifest says what the model is: every count is taken again from the shapes of the weights, by other code.

Nothing here asks the package's own structure, tables or counts: where projections are is written down once more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from conftest import TinyBert
from tiny_models import SETTINGS, SHARES, labelled, tiny_model
from trimformer import Budget, Project, load_model, plugins, save
from trimformer.data.rows import Features
from trimformer.judging.guard import smallest_within
from trimformer.model.manifest import read_manifest
from trimformer.pruning.pruner import Pruner
from trimformer.pruning.result import PruningResult

SEED = 3


@dataclass(frozen=True)
class Layout:
    """Where the projections of a family's blocks are, and how wide a head is."""

    blocks: str
    inputs: tuple[str, ...]
    """Of attention: query, key, value."""
    output: str
    up: tuple[str, ...]
    down: str
    head_width: int
    queries: int = 1
    """Query heads of a unit."""
    core: str = ""
    width: str = ""
    """The module that computes scores, and its attribute with the width of a head, if that may be smaller."""


LAYOUTS = {
    "bert": Layout(
        blocks="bert.encoder.layer",
        inputs=("attention.self.query", "attention.self.key", "attention.self.value"),
        output="attention.output.dense",
        up=("intermediate.dense",),
        down="output.dense",
        head_width=8,
        core="attention.self",
        width="attention_head_size",
    ),
    "llama": Layout(
        blocks="model.layers",
        inputs=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output="self_attn.o_proj",
        up=("mlp.gate_proj", "mlp.up_proj"),
        down="mlp.down_proj",
        head_width=4,
        queries=2,
    ),
}


@dataclass(frozen=True)
class Block:
    """What is left of a block, by the shapes of its weights."""

    heads: int
    width: int
    """Dimensions of a head; 0 without heads."""
    neurons: int
    parameters: int
    """Weights and biases of all projections, those of the two outputs' biases left out: they stay."""
    multiplications: int
    """Of one token in the projections."""
    mixed: int
    """Width of all query heads together: what scores and their weighted sum multiply for a pair of tokens."""


def look(model: PreTrainedModel, layout: Layout) -> list[Block]:
    """Measure all blocks of a model."""
    return [_look(block, layout) for block in model.get_submodule(layout.blocks)]  # type: ignore[union-attr]


def _look(block: nn.Module, layout: Layout) -> Block:
    weights = dict(block.named_parameters())
    mixed, neurons = (  # no weight is left of a sublayer without units
        weights[f"{path}.weight"].shape[1] if f"{path}.weight" in weights else 0
        for path in (layout.output, layout.down)
    )
    inputs = [path for path in (*layout.inputs, *layout.up) if f"{path}.weight" in weights]
    paths = (*inputs, layout.output, layout.down)
    matrices = [weights[f"{path}.weight"] for path in paths if f"{path}.weight" in weights]
    biases = [weights[f"{path}.bias"] for path in inputs if f"{path}.bias" in weights]
    numbers = sum(matrix.numel() for matrix in matrices)
    width = getattr(block.get_submodule(layout.core), layout.width) if layout.width and mixed else layout.head_width
    heads = mixed / (width * layout.queries)
    assert heads == int(heads)
    return Block(
        int(heads), width if mixed else 0, neurons, numbers + sum(each.numel() for each in biases), numbers, mixed
    )


def stages_of(facts: dict[str, Any]) -> set[str]:
    """Heads are turned before anything is measured where they may be narrower."""
    return {"ordering"} if "dimension" in facts["units"][0] else set()


def flops(blocks: list[Block], length: float) -> float:
    """Two for each multiplication with its addition: projections of all tokens, then every token with every other."""
    return sum(2 * length * block.multiplications + 4 * length**2 * block.mixed for block in blocks)


def assert_true(facts: dict[str, Any], dense: PreTrainedModel, pruned: PreTrainedModel, layout: Layout) -> None:
    """Compare a manifest with the two models that it is about."""
    before, after = look(dense, layout), look(pruned, layout)
    assert facts["parameters"] == {"dense": dense.num_parameters(), "pruned": pruned.num_parameters()}
    length = facts["calibration"]["tokens"] / facts["calibration"]["sequences"]
    counted = {
        "flops": flops(after, length) / flops(before, length),
        "params": sum(block.parameters for block in after) / sum(block.parameters for block in before),
    }
    assert facts["kept"] == pytest.approx(counted, rel=1e-12)
    assert facts["budget"]["reached"] == pytest.approx(counted[facts["budget"]["cost"]], rel=1e-12)
    assert facts["budget"]["reached"] <= facts["budget"]["asked"] * (1 + 1e-9)
    assert facts["units"] == [
        {"block": number, "head": now.heads, "head_of": old.heads, "neuron": now.neurons, "neuron_of": old.neurons}
        | ({"dimension": now.width, "dimension_of": old.width} if "dimension" in facts["units"][number] else {})
        for number, (old, now) in enumerate(zip(before, after, strict=True))
    ]
    for site, pattern in facts["patterns"].items():
        kind = "neuron" if site.endswith("ffn") else "head"
        row = facts["units"][int(site.split(".")[-2])]
        assert (pattern.count("#"), len(pattern)) == (row[kind], row[f"{kind}_of"]), site
    assert facts["model_class"] == type(pruned).__name__
    assert facts["dtype"] == str(next(pruned.parameters()).dtype).partition(".")[2]


@pytest.fixture(scope="module")
def rows() -> list[Features]:
    """30 rows of 3 to 20 tokens with labels."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 21, (30,), generator=generator).tolist()
    unlabelled = [{"input_ids": torch.randint(8, 120, (length,), generator=generator).tolist()} for length in lengths]
    return labelled(unlabelled, "sequence classification")


def pruner_of(model: PreTrainedModel, rows: list[Features], method: str, **more: Any) -> Pruner:
    settings = {"method": method, "calibration_tokens": None, "seed": SEED, "options": SETTINGS.get(method, {})}
    return Pruner(model, rows, **(settings | more))


every_method = pytest.mark.parametrize("method", plugins.names("methods"))
every_layout = pytest.mark.parametrize("architecture", LAYOUTS)


@pytest.mark.parametrize("cost", ["flops", "params"])
@every_layout
@every_method
def test_counts_are_those_of_the_weights(method: str, architecture: str, cost: str, rows: list[Features]) -> None:
    model = tiny_model(architecture)
    share = SHARES.get(method, 0.5)
    pruner = pruner_of(model, rows, method)
    for asked in (share, (1 + share) / 2):  # the second budget of a pruner tells of its own model
        result = pruner.prune(Budget.of(cost, asked))
        assert_true(result.manifest, model, result.model, LAYOUTS[architecture])
        budget = result.manifest["budget"]
        assert budget == {"cost": cost, "asked": asked, "reached": budget["reached"], "uniform": False}


@every_method
def test_which_units_are_kept_is_what_the_weights_are(method: str, rows: list[Features]) -> None:
    """Each row of a cut model's first projections is nearest to that of the dense one which mask and pattern name.

    Nearest and not equal: a method may change these weights a little.
    """
    model, layout = tiny_model("bert"), LAYOUTS["bert"]
    whole = {"options": {"narrow": False}} if method == "surgeon" else {}  # turned heads have other weights
    result = pruner_of(model, rows, method, **whole).prune(Budget(flops=SHARES.get(method, 0.5)))
    for number, (old, now) in enumerate(
        zip(*(_first_rows(each, layout) for each in (model, result.model)), strict=True)
    ):
        for kind in ("attention", "ffn"):
            site = f"encoder.layer.{number}.{kind}"
            kept = torch.tensor([unit == "#" for unit in result.manifest["patterns"][site]])
            assert torch.equal(kept, result.masks[site])
            assert len(now[kind]) == int(kept.sum())
            assert nearest(now[kind], old[kind]).tolist() == kept.nonzero().flatten().tolist(), site


def nearest(rows: Tensor, among: Tensor) -> Tensor:
    """Of each row, the index of the row with the largest cosine."""
    unit_rows, unit_among = (each / each.norm(dim=1, keepdim=True) for each in (rows, among))
    return (unit_rows @ unit_among.T).max(1).indices


def _first_rows(model: PreTrainedModel, layout: Layout) -> list[dict[str, Tensor]]:
    """By block and sublayer, the weights of the values and of the neurons, a unit a row."""
    found = []
    for block in model.get_submodule(layout.blocks):  # type: ignore[union-attr]
        weights = dict(block.named_parameters())
        values = weights.get(f"{layout.inputs[2]}.weight", torch.zeros(0, model.config.hidden_size))
        neurons = weights.get(f"{layout.up[0]}.weight", torch.zeros(0, model.config.hidden_size))
        by_unit = values.reshape(-1, layout.head_width * model.config.hidden_size)
        found.append({"attention": by_unit, "ffn": neurons})
    return found


@every_method
def test_what_was_given_is_told(method: str, rows: list[Features]) -> None:
    model, cls = tiny_model("bert"), plugins.load("methods", method)
    settings = SETTINGS.get(method, {})
    budget = Budget(flops=SHARES.get(method, 0.5), round_to=3)
    pruner = pruner_of(model, rows, method, sequence_length=9.5, batch_size=5)
    facts = pruner.prune(budget).manifest
    tokens = sum(len(row["input_ids"]) for row in rows)
    told = {key: facts["calibration"][key] for key in ("tokens", "sequences", "mean_length", "seed")}
    assert told == {"tokens": tokens, "sequences": 30, "mean_length": pytest.approx(tokens / 30), "seed": SEED}
    assert facts["workload"] == {"sequence_length": 9.5, "batch_size": 5}
    assert (facts["method"], facts["budget"]["round_to"], facts["processes"]) == (method, 3, 1)
    assert facts["options"] == {field.name: settings.get(field.name, field.default) for field in fields(cls)}
    assert all(row["neuron"] in (0, row["neuron_of"]) or row["neuron"] % 3 == 0 for row in facts["units"])
    assert facts["versions"]["trimformer"] == version("trimformer")
    assert (facts["versions"]["torch"], facts["versions"]["transformers"]) == (
        torch.__version__,
        transformers.__version__,
    )
    assert facts["already_pruned"] is False
    assert set(facts["seconds"]) == set(facts["memory_mb"]) == stages_of(facts) | {"measuring", "pruning"}


def test_the_fingerprint_is_of_the_tokens(rows: list[Features]) -> None:
    def fingerprint(data: list[Features], method: str = "random") -> str:
        result = pruner_of(tiny_model("bert"), data, method).prune(Budget(flops=0.5))
        return str(result.manifest["calibration"]["fingerprint"])

    changed = copy.deepcopy(rows)
    changed[4]["input_ids"][1] += 1
    assert fingerprint(rows) == fingerprint(copy.deepcopy(rows)) == fingerprint(rows, "magnitude")
    assert len({fingerprint(rows), fingerprint(changed), fingerprint(rows[:-1])}) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_uniform_sizes_and_other_precisions(dtype: torch.dtype, rows: list[Features]) -> None:
    model = tiny_model("llama").to(dtype)
    result = pruner_of(model, rows, "magnitude").prune(Budget(flops=0.6, uniform=True))
    facts = result.manifest
    assert_true(facts, model, result.model, LAYOUTS["llama"])
    assert facts["budget"]["uniform"] is True
    assert len({(row["head"], row["neuron"]) for row in facts["units"]}) == 1


def test_a_model_pruned_twice_tells_of_what_it_was_given(rows: list[Features]) -> None:
    once = pruner_of(tiny_model("bert"), rows, "surgeon").prune(Budget(flops=0.7)).model
    twice = pruner_of(once, rows, "surgeon").prune(Budget(flops=0.6))
    assert_true(twice.manifest, once, twice.model, LAYOUTS["bert"])
    assert twice.manifest["already_pruned"] is True


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "flops kept": lambda facts: facts["kept"].update(flops=facts["kept"]["flops"] * 1.0001),
    "parameters kept": lambda facts: facts["kept"].update(params=facts["kept"]["flops"]),
    "parameters of the dense model": lambda facts: facts["parameters"].update(dense=facts["parameters"]["dense"] + 1),
    "parameters": lambda facts: facts["parameters"].update(pruned=facts["parameters"]["dense"]),
    "reached": lambda facts: facts["budget"].update(reached=facts["budget"]["asked"]),
    "heads": lambda facts: facts["units"][1].update(head=facts["units"][1]["head"] - 1),
    "neurons of": lambda facts: facts["units"][0].update(neuron_of=25),
    "pattern": lambda facts: facts["patterns"].update({"encoder.layer.0.ffn": "." * 24}),
    "class": lambda facts: facts.update(model_class="BertModel"),
    "precision": lambda facts: facts.update(dtype="float16"),
}


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG)
def test_a_wrong_fact_is_noticed(spoil: Callable[[dict[str, Any]], Any], surgeons: PruningResult) -> None:
    model, facts = tiny_model("bert"), surgeons.manifest
    assert_true(facts, model, surgeons.model, LAYOUTS["bert"])
    spoil(facts)
    with pytest.raises(AssertionError):
        assert_true(facts, model, surgeons.model, LAYOUTS["bert"])


@pytest.fixture(scope="module")
def surgeons(rows: list[Features]) -> PruningResult:
    return pruner_of(tiny_model("bert"), rows, "surgeon").prune(Budget(flops=0.5))


def test_what_is_saved_tells_of_the_model_that_is_loaded(surgeons: PruningResult, tmp_path: Path) -> None:
    save(surgeons.model, tmp_path / "small", manifest=surgeons.manifest)
    facts = read_manifest(tmp_path / "small")
    assert facts == surgeons.manifest
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    assert_true(facts, tiny_model("bert"), loaded, LAYOUTS["bert"])


WORDS = ["the", "red", "cat", "saw", "a", "small", "dog", "in", "big", "house", "of", "old"]
CHOSEN = torch.randint(len(WORDS), (120, 11), generator=torch.Generator().manual_seed(0)).tolist()
TEXTS = [" ".join(WORDS[word] for word in row[: 3 + number % 9]) for number, row in enumerate(CHOSEN)]


@pytest.fixture
def project(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> Project:
    parts = [Dataset.from_dict({"text": texts}) for texts in (TEXTS[:100], TEXTS[100:])]
    return Project(tiny_bert(), tokenizer, plugins.load("tasks", "text"), *parts)


def test_judged_facts_are_those_of_the_model(project: Project, tmp_path: Path) -> None:
    result = project.judge(project.pruner(calibration_tokens=200).prune(Budget(flops=0.5)))
    facts = result.manifest
    save(result.pruning.model, tmp_path / "small", tokenizer=project.tokenizer, manifest=facts)
    loaded = load_model(str(tmp_path / "small"))
    for name, model in (("dense", project.model), ("pruned", loaded)):
        judged = project.evaluate(model, project.evaluation_rows)
        assert {metric: told["value"] for metric, told in facts["metrics"][name].items()} == pytest.approx(
            {metric: found.value for metric, found in judged.items()}, abs=1e-6
        )
        assert {told["sample_size"] for told in facts["metrics"][name].values()} == {20}
        timed = facts["latency"][name]
        assert (timed["rows"], timed["length"]) == (
            facts["workload"]["batch_size"],
            round(facts["workload"]["sequence_length"]),
        )
    agreement = facts["metrics"]["pruned"]["agreement"]
    assert facts["lost"] == {
        "agreement": pytest.approx(
            {
                "value": 1 - agreement["value"],
                "sample_size": 20,
                "low": 1 - agreement["high"],
                "high": 1 - agreement["low"],
            }
        )
    }, "the dense model agrees with itself, and kl is a difference already"
    assert set(facts["seconds"]) == stages_of(facts) | {"measuring", "pruning", "judging"}
    assert 200 <= facts["calibration"]["tokens"] < 220


def test_the_guard_tells_what_the_model_lost(project: Project) -> None:
    guarded = project.with_guard()
    result = smallest_within(guarded, guarded.pruner(calibration_tokens=200), 0.05, metric="kl")
    assert guarded.guard_rows is not None
    lost = guarded.evaluate(result.model, guarded.guard_rows)
    numbers = {"max_drop": 0.05, "drop": lost["kl"].value, "rows": 25, "low": lost["kl"].low, "high": lost["kl"].high}
    guard = result.manifest["guard"]
    assert guard.pop("metric") == "kl"
    assert guard == pytest.approx(numbers)
