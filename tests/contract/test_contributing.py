"""The examples of CONTRIBUTING.md work, word for word: each is written to a file, found as a plug-in, and used."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

import trimformer
from conftest import TinyBert
from tiny_models import inputs, outputs, tiny_model
from trimformer import Budget, plugins
from trimformer.errors import InvalidOption, UnsupportedModel
from trimformer.model.masking import masked
from trimformer.model.structure import read_structure
from trimformer.training.finetune import FineTuning
from trimformer.training.recipe import Course, judged
from unit.test_finetuning import project_of

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def example(section: str, language: str) -> str:
    """The first code block of a section of CONTRIBUTING.md."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n### {section}\n", 1)[1].split("\n### ", 1)[0]
    found = re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"the section {section!r} has no example"
    return found[1]


@pytest.fixture
def nothing_remembered() -> Iterator[None]:
    """Plug-ins are looked for anew, in the test and after it."""
    plugins.provided.cache_clear()
    before = set(sys.modules)
    yield
    plugins.provided.cache_clear()
    for name in set(sys.modules) - before:
        if name.rpartition(".")[2] in {"peak", "polish", "my_encoder"} or name == "my_package":
            del sys.modules[name]


def put(folder: str, name: str, text: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a file one of a plug-in folder, as if it lay there."""
    (path / name).write_text(text, encoding="utf-8")
    package = import_module(f"trimformer.{folder}")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(path)])


def by_peak(share: float, **options: Any) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A tiny model, and the masks with which the example prunes it."""
    model = tiny_model("bert")
    rows = [inputs(model, seed=seed) for seed in range(3)]
    return model, trimformer.prune(model, rows, budget=Budget(flops=share), method="peak", options=options).masks


def assert_the_strongest_stay(model: PreTrainedModel, masks: dict[str, Tensor], order: float) -> None:
    structure = read_structure(model)
    for site in structure:
        scores = structure.unit_weights(site).double().abs().pow(order).sum((1, 2))
        kept, removed = scores[masks[site.name]], scores[~masks[site.name]]
        assert not len(kept) or not len(removed) or kept.min() > removed.max()
    assert not all(bool(mask.all()) for mask in masks.values())


@pytest.mark.usefixtures("nothing_remembered")
def test_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("methods", "peak.py", example("A method", "python"), tmp_path, monkeypatch)
    for order in (4.0, 1.0):
        assert_the_strongest_stay(*by_peak(0.5, order=order), order)
    with pytest.raises(InvalidOption, match=r"`order=0\.5` is out of range: it must be at least 1"):
        by_peak(0.5, order=0.5)
    assert plugins.descriptions("methods")["peak"].startswith("Peak: keep the units")


@pytest.mark.usefixtures("nothing_remembered")
def test_a_method_in_a_package_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, entry = re.findall(r'"([\w.]+)"\]\n(.+)', example("In a package of your own", "toml"))[0]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "peak.py").write_text(example("A method", "python"), encoding="utf-8")
    about = tmp_path / "my_package-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert_the_strongest_stay(*by_peak(0.5), 4.0)


@pytest.mark.usefixtures("nothing_remembered")
def test_a_method_that_trains(
    tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("recipes", "trained_after.py", example("A method that trains", "python"), tmp_path, monkeypatch)
    recipe, budget = plugins.load("recipes", "trained_after")(epochs=2), Budget(flops=0.5)
    project = project_of(tiny_bert(num_labels=2), tokenizer).with_guard()
    course = Course(project, tmp_path / "work", tuning=FineTuning(rows=20, patience=1))
    left = next(recipe.make(course, [budget]))
    facts = judged(course, "trained_after", recipe, budget, left, project).facts
    assert facts.pruning.budget.reached <= 0.5
    training = facts.recipe.trainings["training-0.5"]
    assert (training.rows, training.guard_rows, len(training.curve)) == (20, 16, 3)


class MyConfig(PreTrainedConfig):
    """Of the model that the example describes."""

    model_type = "my-encoder"
    hidden_size = 32
    num_attention_heads = 4
    pad_token_id = 0
    vocab_size = 120


class MyAttention(nn.Module):
    """Attention without an output projection; `num_heads` is the size that it caches."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))
        self.out, self.num_heads = nn.Linear(32, 32), 4

    def forward(self, hidden: Tensor, keep: Tensor) -> Tensor:
        split = (each(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for each in (self.q, self.k, self.v))
        attended = nn.functional.scaled_dot_product_attention(*split, attn_mask=keep)
        return self.out(attended.transpose(1, 2).flatten(2))


class MyBlock(nn.Module):
    """Post-norm: each norm comes after the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norms = MyAttention(), nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.mlp = nn.ModuleDict({"up": nn.Linear(32, 24), "down": nn.Linear(24, 32)})

    def forward(self, hidden: Tensor, keep: Tensor) -> Tensor:
        hidden = self.norms[0](hidden + self.attention(hidden, keep))
        return self.norms[1](hidden + self.mlp["down"](self.mlp["up"](hidden).relu()))


class MyEncoderModel(PreTrainedModel):
    """Two such blocks over embeddings."""

    config_class = MyConfig
    base_model_prefix = "my_encoder"

    def __init__(self, config: MyConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(120, 32)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(MyBlock() for _ in range(2))})
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> BaseModelOutput:
        hidden = self.embeddings(input_ids)
        keep = (torch.ones_like(input_ids) if attention_mask is None else attention_mask).bool()[:, None, None]
        for block in self.encoder["layers"]:
            hidden = block(hidden, keep)
        return BaseModelOutput(last_hidden_state=hidden)


@pytest.mark.usefixtures("nothing_remembered")
def test_an_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = MyEncoderModel(MyConfig()).eval()
    rows = [inputs(model, (11, 9, 12), seed=seed) for seed in range(6)]
    with pytest.raises(UnsupportedModel, match="models of type 'my-encoder' cannot be pruned"):
        trimformer.prune(model, rows, budget=Budget(flops=0.5))
    plugins.provided.cache_clear()
    put("architectures", "my_encoder.py", example("An architecture", "python"), tmp_path, monkeypatch)
    result = trimformer.prune(model, rows, budget=Budget(flops=0.5), method="magnitude")
    assert 0 < sum(int(mask.sum()) for mask in result.masks.values()) < 2 * (4 + 24)
    with masked(read_structure(model), result.masks):
        expected = outputs(model, rows[0])
    torch.testing.assert_close(outputs(result.model, rows[0]), expected, atol=1e-5, rtol=0)
