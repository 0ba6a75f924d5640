"""Every method prunes a model whose weights stay in half precision, and it is saved and loaded in that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tiny_models import SETTINGS, SHARES, inputs, labelled, outputs, tiny_model
from trimformer import plugins
from trimformer.errors import InvalidOption
from trimformer.model.checkpoint import load_model, stored_dtype, write
from trimformer.model.placement import Placement
from trimformer.pruning.budget import Budget
from trimformer.pruning.once import prune

ARCHITECTURES = ("bert", "gpt2", "llama")


def cases() -> list[Any]:
    """Every method once, every architecture in both precisions by one method; all others are slow."""
    return [
        pytest.param(method, architecture, dtype, marks=[] if once or method == "kprune" else pytest.mark.slow)
        for place, method in enumerate(plugins.names("methods"))
        for architecture in ARCHITECTURES
        for dtype in (torch.bfloat16, torch.float16)
        for once in [(architecture, dtype) == (ARCHITECTURES[place % len(ARCHITECTURES)], torch.bfloat16)]
    ]


@pytest.mark.parametrize(("method", "architecture", "dtype"), cases(), ids=str)
def test_weights_stay_in_half_precision(method: str, architecture: str, dtype: torch.dtype, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 21, (30,), generator=generator).tolist()
    unlabelled = [{"input_ids": torch.randint(8, 120, (length,), generator=generator).tolist()} for length in lengths]
    tiny_model(architecture).save_pretrained(tmp_path / "dense")
    model = load_model(str(tmp_path / "dense"), dtype=str(dtype).removeprefix("torch."))
    result = prune(
        model,
        labelled(unlabelled, "sequence classification"),
        budget=Budget(flops=SHARES.get(method, 0.5)),
        method=method,
        options=SETTINGS.get(method),
        calibration_tokens=None,
    )
    assert {values.dtype for values in result.model.parameters()} == {dtype}
    assert result.manifest["dtype"] == str(dtype).removeprefix("torch.")
    saved = write(result.model, tmp_path / "pruned")
    assert stored_dtype(str(saved)) is dtype
    loaded = load_model(str(saved), dtype="auto")
    by_transformers = getattr(transformers, type(model).__name__).from_pretrained(saved, dtype="auto").eval()
    batch = inputs(model)
    for other in (loaded, by_transformers):
        assert {values.dtype for values in other.parameters()} == {dtype}
        assert torch.equal(outputs(other, batch), outputs(result.model, batch))


def test_refitted_half_precision_follows_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [{"input_ids": torch.randint(8, 120, (20,), generator=generator).tolist()} for _ in range(30)]
    exact = tiny_model("llama", "language model").to(torch.bfloat16).float()
    half = tiny_model("llama", "language model").to(torch.bfloat16)
    batch = inputs(exact)
    dense = outputs(exact, batch)
    errors = []
    for model in (exact, half):
        small = prune(model, rows, budget=Budget(flops=0.7), calibration_tokens=None).model
        errors.append(float((outputs(small, batch).float() - dense).square().mean()))
    assert errors[1] < 1.2 * errors[0] + 1e-3 * float(dense.square().mean())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "float8"}, "must be one of auto, float32, bfloat16, float16"),
        ({"device_map": "balanced"}, "must be auto"),
        ({"max_memory": "cpu=1GB"}, 'give `device_map="auto"` too'),
        ({"device_map": "auto", "max_memory": "cpu"}, "such as `0=10GiB` or `cpu=20GiB`"),
        ({"device_map": "auto", "max_memory": "gpu=1GB"}, "such as `0=10GiB` or `cpu=20GiB`"),
    ],
)
def test_a_wrong_placement_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        Placement(**options)


def test_limits_of_a_device_map() -> None:
    placement = Placement(device_map="auto", max_memory="0=10GiB, cpu=1.5GB")
    assert placement.loading_arguments == {"device_map": "auto", "max_memory": {0: "10GiB", "cpu": "1.5GB"}}
    assert Placement().loading_arguments == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_frequencies_that_a_class_computes_are_read_back_in_full_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    tiny_model("esm").save_pretrained(tmp_path / "dense")
    model = load_model(str(tmp_path / "dense"), dtype=str(dtype).removeprefix("torch."))
    assert {values.dtype for values in model.buffers() if values.is_floating_point()} == {torch.float32}
    saved = write(model, tmp_path / "written")
    assert stored_dtype(str(saved)) is dtype
    loaded = load_model(str(saved), dtype="auto")
    assert torch.equal(outputs(loaded, inputs(model)), outputs(model, inputs(model)))
