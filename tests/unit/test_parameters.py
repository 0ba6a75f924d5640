"""A parameter is the same in Python, on the command line and in compare files: its text, its default, its check."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from transformers import PreTrainedTokenizerBase

from conftest import TinyBert
from trimformer import Budget, Project, Pruner, TrimformerWarning, evaluate, prune
from trimformer.cli import app
from trimformer.compare.plan import read_plan
from trimformer.errors import InvalidOption, UnsupportedModel
from trimformer.model import parameters as of_placement
from trimformer.model.parameters import Parameter
from trimformer.model.placement import Placement
from trimformer.pruning.parameters import DEFAULT_PRETRAINED_METHOD, PARAMETERS, SEED
from trimformer.training.p_pruning import prune_pretrained

ALL = PARAMETERS | {
    parameter.name: parameter for parameter in vars(of_placement).values() if isinstance(parameter, Parameter)
}
ENTRY_POINTS = [prune, Pruner, Project, Project.pruner, evaluate, prune_pretrained, Placement]
OTHER_DEFAULTS = {
    ("demo", "calibration_tokens"): 40_000,
    ("pprune", "method"): DEFAULT_PRETRAINED_METHOD,
    ("Placement", "device"): "cpu",
}
TEXTS = ["the cat saw a dog"] * 40


def described(documented: Callable[..., Any]) -> dict[str, str]:
    """What the `Args:` of a docstring say, by parameter."""
    section = (inspect.getdoc(documented) or "").partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app.app)
    return group.commands


@pytest.mark.parametrize("documented", ENTRY_POINTS, ids=lambda each: each.__qualname__)
def test_python_has_the_texts_and_the_defaults(documented: Any) -> None:
    texts, arguments = described(documented), inspect.signature(documented).parameters
    for name in ALL.keys() & arguments.keys():
        default = OTHER_DEFAULTS.get((documented.__qualname__, name), ALL[name].default)
        assert arguments[name].default == default
        if name in texts:
            text = ALL[name].text.removesuffix(".")
            assert texts[name].startswith(text[0].lower() + text[1:]), f"{documented.__qualname__}: {name}"


def test_the_docstring_of_prune_has_all_of_them() -> None:
    assert described(prune).keys() == inspect.signature(prune).parameters.keys()


OTHERS = {("retrain", "method")}
"""Options of the same name for something else: what trains is a recipe."""


@pytest.mark.parametrize("command", commands())
def test_the_command_line_has_the_texts_the_defaults_and_the_checks(command: str) -> None:
    for option in commands()[command].params:
        parameter = ALL.get(option.name)
        if parameter is not None and (command, option.name) not in OTHERS:
            assert option.help == parameter.text
            assert option.default == OTHER_DEFAULTS.get((command, option.name), parameter.default)
            assert option.callback is not None


WRONG = [
    ("calibration_tokens", -1, "`calibration_tokens=-1` is out of range: it must be at least 1"),
    ("calibration_tokens", 0, "`calibration_tokens=0` is out of range: it must be at least 1"),
    ("calibration_tokens", 1.5, "`calibration_tokens=1.5` must be a whole number"),
    ("sequence_length", 0, "`sequence_length=0` is out of range: it must be at least 1"),
]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        *WRONG,
        ("batch_size", 0, "`batch_size=0` is out of range: it must be at least 1"),
        ("batch_size", True, "`batch_size=True` must be a whole number"),
        ("seed", -1, "`seed=-1` is out of range: it must be at least 0 and at most"),
        ("seed", "0", "`seed='0'` must be a whole number"),
    ],
)
def test_python_refuses(
    tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase, name: str, value: object, said: str
) -> None:
    with pytest.raises(InvalidOption, match=re.escape(said)):
        prune(tiny_bert(), TEXTS, budget=Budget(flops=0.5), tokenizer=tokenizer, method="random", **{name: value})


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_a_compare_file_refuses(tmp_path: Path, name: str, value: object, said: str) -> None:
    tokens, length = (f"{name}: {value}\n", "") if name == "calibration_tokens" else ("", f", {name}: {value}")
    file = tmp_path / "plan.yaml"
    file.write_text(f"{tokens}tasks:\n  sst2: {{model: some/model{length}}}\nmethods: {{kprune: }}\nbudgets: [0.5]\n")
    with pytest.raises(InvalidOption, match=re.escape(said)) as error:
        read_plan(file)
    assert f"{file}, line {1 if tokens else 2}: " in str(error.value)


def test_numbers_of_numpy_are_numbers() -> None:
    assert SEED.check(np.int64(3)) == 3


def test_prune_warns_in_python(tiny_bert: TinyBert, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.warns(TrimformerWarning, match="calibration tokens are few") as warned:
        result = prune(
            tiny_bert(), TEXTS, budget=Budget(flops=0.5), tokenizer=tokenizer, method="random", calibration_tokens=20
        )
    assert result.manifest["warnings"] == [str(warned[0].message)]
    assert Path(warned[0].filename) == Path(__file__), "the line is the user's, not one of the package"


@pytest.mark.parametrize("budget", [0.4, {"flops": 0.4}, None])
def test_what_is_no_budget_is_refused_first(budget: Any) -> None:
    with pytest.raises(InvalidOption, match=r"give one such as Budget\(flops=0\.4\)"):
        prune(None, None, budget=budget)


@pytest.mark.parametrize("value", ["x", 1, None])
def test_uniform_is_true_or_false(value: Any) -> None:
    with pytest.raises(InvalidOption, match="must be true or false"):
        Budget(flops=0.5, uniform=value)


@pytest.mark.parametrize("model", ["a/folder", None])
def test_a_name_is_no_model(model: Any) -> None:
    with pytest.raises(UnsupportedModel, match="load it first, with from_pretrained"):
        prune(model, ["a text"], budget=Budget(flops=0.5))
