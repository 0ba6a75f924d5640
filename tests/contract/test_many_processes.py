"""Several processes give what one gives: the same masks, and the same weights but for the order of summation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch import distributed as dist

from commands import forkserver
from tiny_models import SETTINGS, SHARES, labelled, tiny_model
from trimformer import plugins, processes
from trimformer.data.batches import length_sorted_indices, pad
from trimformer.data.labels import pad_labels
from trimformer.data.rows import Batch
from trimformer.errors import DataError
from trimformer.pruning.budget import Budget
from trimformer.pruning.cache import MeasuredCache
from trimformer.pruning.pruner import Pruner
from trimformer.pruning.result import PruningResult
from trimformer.pruning.sizes import Sizes
from trimformer.training import recipe, stages

WEIGHT_TOLERANCE = 1e-5
"""Batches stay whole, so that only the order differs in which float64 sums are added up."""
GROUPS = (2, 3)
PATIENCE = 300
"""Seconds after which a process hangs; a machine may be busy."""
METHODS = plugins.names("methods")
MAX_ROWS = 7
CASES: dict[str, tuple[str, str, str, Budget, dict[str, Any]]] = {
    name: ("bert", "sequence classification", name, Budget(flops=SHARES.get(name, 0.5)), SETTINGS.get(name, {}))
    for name in METHODS
} | {
    "magnitude, refitted": ("bert", "regression", "magnitude", Budget(flops=0.5), {"tune": True}),
    "surgeon by energy": ("roberta", "token classification", "surgeon", Budget(params=0.4), {"focus": 1.0}),
    "surgeon on a decoder": ("llama", "language model", "surgeon", Budget(flops=0.5), {}),
    "surgeon on query heads": ("llama", "language model", "surgeon", Budget(flops=0.7), {}),
    "surgeon with trained blocks": ("bert", "regression", "surgeon", Budget(flops=0.5), {"epochs": 2, "rate": 1e-3}),
    "uniform surgeon": ("llama", "sequence classification", "surgeon", Budget(flops=0.5, uniform=True), {}),
    "kprune by Fisher": ("opt", "language model", "kprune", Budget(flops=0.5), {"predictive": "fisher"}),
    "mask_tuning cut": ("distilbert", "question answering", "mask_tuning", Budget(flops=0.6), {"tune": False}),
    "dual_cp on neurons alone": ("gpt2", "language model", "dual_cp", Budget(params=0.6), {"lambda_": 1.0}),
}
"""By name: architecture, head, method, budget, options."""
SIZES = {
    "surgeon on a decoder": Sizes(heads="1-3", sites={"1": {"neurons": {"keep": [2, 5]}}}),
    "surgeon on query heads": Sizes(query_heads="4-8"),
    "kprune by Fisher": Sizes(drop_sublayers=1),
}
"""Sizes asked for in some cases."""


def batches(head: str) -> list[Batch]:
    """Five batches of rows of 3 to 20 tokens, the last one smaller."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 21, (30,), generator=generator).tolist()
    rows = [{"input_ids": torch.randint(8, 120, (length,), generator=generator).tolist()} for length in lengths]
    rows = labelled(rows, head)
    chosen = [[rows[i] for i in indices] for indices in length_sorted_indices(rows, max_rows=MAX_ROWS)]
    return [pad(part, None, "cpu") | pad_labels(part, "cpu") for part in chosen]


def cases(size: int) -> list[str]:
    """What a group of that size is tried with: in the larger one, methods that look in different ways."""
    return list(CASES) if size == min(GROUPS) else ["surgeon", "kprune", "mask_tuning"]


def pruned(case: str, **changes: Any) -> PruningResult:
    architecture, head, method, budget, options = CASES[case]
    pruner = Pruner(tiny_model(architecture, head), batches(head), method=method, options=options, **changes)
    return pruner.prune(budget, SIZES.get(case))


def tensors(result: PruningResult) -> dict[str, Tensor]:
    weights = {f"weight {name}": values.contiguous() for name, values in result.model.state_dict().items()}
    return weights | {f"mask {name}": mask for name, mask in result.masks.items()}


def cached(folder: Path) -> dict[str, Tensor]:
    """A result from what an earlier process measured, and how often something was measured."""
    said: list[str] = []
    for _ in range(2):
        found = tensors(pruned("surgeon", cache=MeasuredCache(folder, said.append)))
    return found | {"reused": torch.tensor(len(said))}


def refusals() -> dict[str, Tensor]:
    """Errors as text."""
    head, index = "sequence classification", processes.index()
    wrong: list[Callable[[], Any]] = [
        lambda: Pruner(tiny_model("bert", head), batches(head)[: 3 + index]),
        lambda: Pruner(tiny_model("bert", head, seed=index), batches(head)),
        lambda: Pruner(tiny_model("bert", head), batches(head), options={"ridge": index}),
        lambda: Pruner(tiny_model("bert", head), batches(head)[:1]),
    ]
    texts = []
    for make in wrong:
        with pytest.raises(DataError) as error:
            make()
        texts.append(str(error.value))
    return {"refusals": torch.tensor(list("\n".join(texts).encode()), dtype=torch.uint8)}


def averaged() -> dict[str, Tensor]:
    """A model's gradients and buffers after a step of a training, of which each process has its own before."""
    model = torch.nn.BatchNorm1d(2)
    model.weight.grad = torch.full((2,), float(processes.index()))
    model.running_mean.fill_(processes.index() + 5)
    stages._average(model)
    recipe._first_buffers(model)
    return {"weight": model.weight.grad, "bias": model.bias.grad, "mean": model.running_mean}


def work(index: int, folder: Path) -> None:
    """What one process does: everything in a group of two, and some methods in one of three."""
    for size in GROUPS:
        if index >= size:
            continue
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{size}", rank=index, world_size=size)
        found = {case: tensors(pruned(case)) for case in cases(size)}
        latency = Pruner(tiny_model("bert"), batches("encoder"), batch_size=2).prune(Budget(latency=1.0))
        found["latency"] = tensors(latency) | {"measured": torch.tensor(latency.manifest["budget"]["measured"])}
        found["cached"] = cached(folder / f"cache-{size}")
        found["refused"] = refusals()
        found["averaged"] = averaged()
        dist.destroy_process_group()
        flat = {f"{case}: {name}": values.clone() for case, named in found.items() for name, values in named.items()}
        save_file(flat, folder / f"{index}-of-{size}.safetensors")


Found = dict[tuple[int, int], dict[str, dict[str, Tensor]]]
"""By process and size of the group: tensors by case and name."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("processes")
    processes = [forkserver().Process(target=work, args=(index, folder)) for index in range(max(GROUPS))]
    for process in processes:
        process.start()
    processes[0].join(timeout=PATIENCE)
    for process in processes:  # all end at about the same time
        process.join(timeout=30)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * len(processes)
    return {
        (index, size): by_case(load_file(folder / f"{index}-of-{size}.safetensors"))
        for size in GROUPS
        for index in range(size)
    }


def by_case(flat: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    cases: dict[str, dict[str, Tensor]] = {}
    for about, values in flat.items():
        case, _, name = about.partition(": ")
        cases.setdefault(case, {})[name] = values
    return cases


every_group = pytest.mark.parametrize("size", GROUPS)


@pytest.mark.parametrize(("size", "case"), [(size, case) for size in GROUPS for case in cases(size)])
def test_as_one_process(size: int, case: str, found: Found) -> None:
    alone, together = tensors(pruned(case)), found[0, size][case]
    assert alone.keys() == together.keys()
    for name, values in alone.items():
        if name.startswith("mask"):
            assert torch.equal(values, together[name]), name
        else:
            torch.testing.assert_close(together[name], values, atol=WEIGHT_TOLERANCE, rtol=0)


@every_group
def test_all_processes_have_the_same_to_the_last_bit(size: int, found: Found) -> None:
    for index in range(1, size):
        assert found[index, size].keys() == found[0, size].keys()
        for case in (case for case in found[0, size] if case != "cached"):
            for name, values in found[0, size][case].items():
                assert torch.equal(values, found[index, size][case][name]), f"{case}: {name}"


@every_group
def test_a_step_has_the_mean_gradient_and_the_first_buffers(size: int, found: Found) -> None:
    expected = {"weight": [(size - 1) / 2] * 2, "bias": [0.0, 0.0], "mean": [5.0, 5.0]}
    assert {name: values.tolist() for name, values in found[size - 1, size]["averaged"].items()} == expected


@every_group
def test_the_first_process_alone_reads_and_writes_the_cache(size: int, found: Found) -> None:
    reused = [int(found[index, size]["cached"].pop("reused")) for index in range(size)]
    assert reused == [1] + [0] * (size - 1)
    for index in range(size):
        for name, values in found[0, size]["surgeon"].items():
            assert torch.equal(found[index, size]["cached"][name], values), name


@every_group
def test_what_cannot_work_together_is_refused(size: int, found: Found) -> None:
    for index in range(size):
        other_rows, other_model, other_options, too_few = (
            bytes(found[index, size]["refused"]["refusals"].tolist()).decode().splitlines()
        )
        for text, what in ((other_rows, "(data)"), (other_model, "(model)"), (other_options, "(options)")):
            assert "the processes were given different things" in text
            assert what in text
        assert f"{size} processes, but the calibration rows make 1 batches" in too_few
