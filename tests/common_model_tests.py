"""Run transformers' own common model tests on dense models and on pruned ones, and print which pass; by hand.

    pip install parameterized
    python tests/common_model_tests.py [bert llama gpt2 …]

The tests are those of the installed version of transformers, from its source distribution, which is fetched when this
runs. It holds `ModelTesterMixin`, but neither the tests of generation nor those of single models.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import unittest
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from tiny_models import config_of, heads_of, inputs, random_masks, tiny_model
from trimformer.model.modeling_trimformer import initialize, reshape, sizes_of
from trimformer.model.structure import read_structure
from trimformer.model.surgery import cut

LAYERS = 3
ONE_SIZE_FOR_ALL = {
    "test_model_outputs_equivalence": "takes the largest number of the first layer's attention, which has no head",
    "test_attention_outputs": "asserts that all layers have the config's number of heads",
    "test_retain_grad_hidden_states_attentions": "takes the gradient of the first layer's attention, which has no head",
}
"""Tests that cannot pass for layers of different sizes, each with what it asserts."""


def fetch(folder: Path) -> Any:
    """Fetch the tests of the installed transformers, and import the common ones."""
    package = f"transformers=={transformers.__version__}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--no-binary", "transformers", "-d", str(folder), package], check=True)
    with tarfile.open(next(folder.glob("transformers-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    source = next(folder.glob("transformers-*/tests"))
    for name, mixin in (
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ):
        left_out = ModuleType(f"tests.{name}")
        setattr(left_out, mixin, type(mixin, (), {}))
        sys.modules[left_out.__name__] = left_out
    tests = ModuleType("tests")
    tests.__path__ = [str(source)]
    sys.modules["tests"] = tests
    from tests import test_modeling_common  # noqa: PLC0415  # it is there from now on

    return test_modeling_common


class Tester:
    """What the common tests ask of a model's own: a small config, inputs, and the sizes that they compare with."""

    is_training, batch_size, seq_length, num_choices = True, 3, 11, 2
    num_hidden_layers = LAYERS

    def __init__(self, architecture: str, *, pruned: bool) -> None:
        self.architecture = architecture
        self.sizes = small(architecture).config.quantization_config.to_dict() if pruned else None
        config = self.get_config()
        self.hidden_size, self.num_attention_heads = config.hidden_size, config.num_attention_heads

    def get_config(self) -> PreTrainedConfig:
        config = config_of(self.architecture, num_hidden_layers=LAYERS)
        if self.sizes is not None:
            config.quantization_config = self.sizes
        return config

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        batch = inputs(tiny_model(self.architecture, "encoder"), lengths=(self.seq_length,) * self.batch_size)
        return self.get_config(), batch


def small(architecture: str) -> PreTrainedModel:
    """A pruned model: uneven, its first attention and its second FFN without units."""
    model = tiny_model(architecture, "encoder", num_hidden_layers=LAYERS)
    structure, empty = read_structure(model), {("head", 0), ("neuron", 1)}
    masks = random_masks(structure)
    cut(structure, {site.name: masks[site.name] & ((site.kind, site.block) not in empty) for site in structure})
    return model


def classes_of(architecture: str) -> list[type[PreTrainedModel]]:
    """The classes of a tiny model, with and without head."""
    return list({type(tiny_model(architecture, head)) for head in heads_of(architecture)})


@contextmanager
def within(stack: list[Any], what: Any) -> Iterator[None]:
    """Within the context, `what` is on the stack."""
    stack.append(what)
    try:
        yield
    finally:
        stack.pop()


@contextmanager
def built_pruned(kinds: list[type[PreTrainedModel]]) -> Iterator[None]:
    """Within the context, `kind(config)` too has the sizes of its config, as `from_config` has anywhere."""
    before, loading = {kind: kind.__init__ for kind in kinds}, PreTrainedModel.from_pretrained.__func__
    inside: list[Any] = []

    def pruned(kind: type[PreTrainedModel]) -> Any:
        @wraps(before[kind])
        def build(self: PreTrainedModel, config: Any, *args: Any, **kwargs: Any) -> None:
            with within(inside, kind):
                before[kind](self, config, *args, **kwargs)
            sizes = sizes_of(config)
            if sizes is not None and not inside:
                reshape(self, sizes)
                initialize(self, sizes)

        return build

    def load(cls: type[PreTrainedModel], *args: Any, **kwargs: Any) -> Any:
        with within(inside, cls):
            return loading(cls, *args, **kwargs)

    PreTrainedModel.from_pretrained = classmethod(load)
    for kind in kinds:
        kind.__init__ = pruned(kind)
    try:
        yield
    finally:
        PreTrainedModel.from_pretrained = classmethod(loading)
        for kind, build in before.items():
            kind.__init__ = build


def run(common: Any, architecture: str, *, pruned: bool) -> dict[str, str]:
    """Run the common tests: by name nothing where it passed, `skipped`, or the last line of the error."""

    class Common(common.ModelTesterMixin, unittest.TestCase):
        all_model_classes = tuple(classes_of(architecture))
        model_tester = Tester(architecture, pruned=pruned)

    found = {}
    for name in unittest.TestLoader().getTestCaseNames(Common):
        result = unittest.TestResult()
        Common(name).run(result)
        wrong = [*result.errors, *result.failures]
        found[name] = wrong[0][1].strip().splitlines()[-1] if wrong else "skipped" if result.skipped else ""
    return found


def main(architectures: list[str]) -> int:
    """Compare, and print; the number of tests that pass for dense models only and are not excused."""
    worse = 0
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        common = fetch(Path(folder))
        for architecture in architectures:
            dense = run(common, architecture, pruned=False)
            with built_pruned(classes_of(architecture)):
                pruned = run(common, architecture, pruned=True)
            passed = {name for name, wrong in dense.items() if not wrong}
            lost = {name: pruned[name] for name in sorted(passed) if pruned[name]}
            print(f"{architecture}: {len(passed)} pass dense, {len(passed) - len(lost)} of these pruned")
            for name, wrong in lost.items():
                print(f"  {name}: {ONE_SIZE_FOR_ALL.get(name, wrong)}")
            worse += len(lost.keys() - ONE_SIZE_FOR_ALL.keys())
    return worse


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:] or ["bert", "llama", "gpt2"])))
