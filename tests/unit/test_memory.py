"""The estimate of memory is near what is used, and what does not fit is refused with an option that would."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from tiny_models import tiny_model
from trimformer.errors import InsufficientMemory
from trimformer.model.structure import read_structure
from trimformer.pruning import memory
from trimformer.pruning.budget import Budget
from trimformer.pruning.contract import Backward
from trimformer.pruning.memory import Footprint, footprint, pass_tokens, remedy
from trimformer.pruning.once import prune
from trimformer.pruning.pruner import Pruner
from trimformer.pruning.refit import blocks

FACTOR = 1.7
"""The estimate is that near to the peak, either way."""
ROWS = [{"input_ids": torch.randint(5, 120, (32,)).tolist()} for _ in range(16)]
LARGE = Footprint(
    parameters=1_000_000_000,
    bytes_per_number=4,
    tokens=2048,
    tokens_at_once=4000,
    numbers_per_token=900_000,
    blocks=24,
    width=2048,
    features=5504,
    logits=32_000,
    backward="by block",
)


PEAK = """
import resource, sys, psutil, torch
from transformers import AutoModelForCausalLM, LlamaConfig
from trimformer import Budget, Pruner
from trimformer.observing import moments
from trimformer.pruning import memory
moments.SHARE_OF_MEMORY = 0.0
torch.set_num_threads(1)
sizes = dict(hidden_size=384, intermediate_size=1792, num_attention_heads=6, num_hidden_layers=3, vocab_size=6000)
model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes), dtype=getattr(torch, sys.argv[2])).eval()
rows = [{"input_ids": row} for row in torch.randint(3, 6000, (16, 128)).tolist()]
model(input_ids=torch.tensor([rows[0]["input_ids"]]))
before = psutil.Process().memory_info().rss
pruner = Pruner(model, rows, calibration_tokens=None, method=sys.argv[1])
dense, batches = pruner.calibration.dense, pruner.calibration.batches
estimate = memory.footprint(dense, batches, pruner.method).needed
pruner.prune(Budget(flops=0.7))
print(estimate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is in other units elsewhere")
@pytest.mark.parametrize(("method", "dtype"), [("surgeon", "bfloat16"), ("surgeon", "float32"), ("kprune", "float32")])
@pytest.mark.slow
def test_the_estimate_is_near_the_peak(method: str, dtype: str) -> None:
    ran = subprocess.run([sys.executable, "-c", PEAK, method, dtype], capture_output=True, text=True, check=True)
    estimate, used = map(float, ran.stdout.split())
    assert used / FACTOR < estimate < used * FACTOR


@pytest.mark.parametrize("method", ["surgeon", "kprune"])
def test_what_does_not_fit_is_refused_before_the_work_starts(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda _: 100_000)
    with pytest.raises(InsufficientMemory, match=r"^pruning needs about 0\.0 GB beside the model, 0\.0 GB are availab"):
        prune(tiny_model("llama"), ROWS, budget=Budget(flops=0.5), method=method, calibration_tokens=None)


@pytest.mark.parametrize(
    ("plan", "gigabytes", "expected"),
    [
        ({}, 8.0, '`dtype="bfloat16"` needs about'),
        (
            {"bytes_per_number": 2, "backward": "whole model"},
            10.0,
            '`method="surgeon"` (gradients block by block) needs',
        ),
        ({"bytes_per_number": 2}, 5.5, "`gradients=False` needs about"),
        ({"trained": 80_000_000}, LARGE.needed / 1e9, "`epochs=0` needs about"),
        ({}, 3.2, '`dtype="bfloat16"` with `gradients=False` needs about'),
        ({"bytes_per_number": 2, "tokens": 1_000_000}, 5.5, "at most `calibration_tokens="),
        ({}, 0.5, 'spread the model over memory and disk with `device_map="auto"`'),
    ],
)
def test_the_option_that_would_fit_is_named(plan: dict[str, Any], gigabytes: float, expected: str) -> None:
    assert expected in remedy(replace(LARGE, **plan), gigabytes * 1e9)


def test_as_many_tokens_as_fit_do_fit() -> None:
    asked, available = replace(LARGE, bytes_per_number=2, tokens=1_000_000, backward="none"), 5e9
    said = remedy(asked, available)
    fitting = int("".join(filter(str.isdigit, said)))
    assert replace(asked, tokens=fitting).needed <= available < replace(asked, tokens=fitting + 2).needed


@pytest.mark.parametrize(("milder", "than"), [("by block", "whole model"), ("none", "by block")])
def test_less_backward_needs_less(milder: Backward, than: Backward) -> None:
    assert replace(LARGE, backward=milder).needed < replace(LARGE, backward=than).needed


@pytest.mark.parametrize("epochs", [0, 2])
def test_training_blocks_counts_copies_of_the_largest_one(epochs: int) -> None:
    pruner = Pruner(tiny_model("llama"), ROWS, calibration_tokens=None, options={"epochs": epochs})
    dense = pruner.calibration.dense
    found = footprint(dense, pruner.calibration.batches, pruner.method)
    block = sum(weight.numel() for weight in dense.blocks(0)[0].parameters())
    assert found.trained == (block if epochs else 0)
    assert found.needed - replace(found, trained=0).needed == memory.TRAINED_COPIES * 4 * found.trained
    both_models_states = 2 * blocks.VERSIONS * found.bytes_per_number * found.tokens * found.width
    assert found.hidden >= both_models_states


def test_a_language_models_logits_count_among_what_a_pass_keeps() -> None:
    dense = read_structure(tiny_model("llama", "language model"))
    per_token = dense.numbers_per_token + memory.LOGIT_COPIES * dense.model.config.vocab_size
    assert pass_tokens(dense) == memory.NUMBERS_AT_ONCE // per_token
    classifier = read_structure(tiny_model("llama", "sequence classification"))
    assert pass_tokens(classifier) == memory.NUMBERS_AT_ONCE // classifier.numbers_per_token


def test_batches_are_split_for_large_models(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = read_structure(tiny_model("llama"))
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", 64 * dense.numbers_per_token)
    assert pass_tokens(dense) == 64
    batches = Pruner(dense.model, ROWS, calibration_tokens=None).calibration.batches
    assert {batch["input_ids"].numel() for batch in batches} == {64}
