"""What pruning costs, as ratios: time to passes of the dense model over the same tokens, memory to the hidden states.

    python benchmarks/cost.py [--model FOLDER] [--tokens 20000] [--parts time memory curves]

Parts that are not asked for keep what they were in `benchmarks/results/cost.json`. Time: each method at 40 % of
FLOPs kept, against a plain forward pass, and against a forward and backward pass with the gradients of all
parameters, over the same batches. Memory: peak resident size of one K-prune run at 10,000 and at 100,000 tokens,
each in a process of its own. Curves: all removal curves' time for one FFN of BERT-base size. The model is random (6
layers, 12 heads, width 384, 1536 neurons) unless one is given.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

import trimformer
from trimformer import Budget, Pruner
from trimformer.model.folders import write_text
from trimformer.observing.resources import Machine
from trimformer.pruning.choose.curves import damped, removal_curve

RESULTS = Path(__file__).parent / "results" / "cost.json"
KEPT = 0.4
MEMORY_TOKENS = (10_000, 100_000)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument(
        "--parts", nargs="+", choices=["time", "memory", "curves"], default=["time", "memory", "curves"]
    )
    parser.add_argument("--methods", nargs="+", default=["surgeon", "kprune"])
    arguments = parser.parse_args()
    parts: dict[str, Any] = {
        "time": lambda: {
            method: _time(_model(arguments.model), method, arguments.tokens) for method in arguments.methods
        },
        "memory": lambda: _memory(arguments.model),
        "curves": _curves,
    }
    facts: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in arguments.parts:
        facts[part] = parts[part]() | {"threads": torch.get_num_threads()}
        facts[part] |= {"machine": asdict(Machine.now(torch.device("cpu")))}
        print(part, json.dumps(facts[part]), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    write_text(json.dumps(facts, indent=2) + "\n", RESULTS)


def _time(model: PreTrainedModel, method: str, tokens: int) -> dict[str, float]:
    pruner = Pruner(model, _rows(tokens), method=method, calibration_tokens=None)
    batches, sites = pruner.calibration.batches, len(pruner.calibration.dense.sites)
    _forward_backward(model, batches[0])
    forward = _seconds(lambda: [_forward(model, batch) for batch in batches])
    both = _seconds(lambda: _forward_backward(model, *batches))
    first = _seconds(lambda: pruner.prune(Budget(flops=KEPT)))
    further = _seconds(lambda: pruner.prune(Budget(flops=KEPT)))
    return {
        "forward_seconds": forward,
        "forward_backward_seconds": both,
        "first_seconds": first,
        "first_to_forward": first / forward,
        "further_to_forward": further / forward,
        "first_to_sites_times_forward_backward": first / (sites * both),
    }


def _memory(folder: str | None) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for tokens in MEMORY_TOKENS:
        with context.Pool(1) as pool:
            peaks[tokens] = pool.apply(_peak_bytes, (folder, tokens))
    few, many = peaks[MEMORY_TOKENS[0]], peaks[MEMORY_TOKENS[1]]
    width = _model(folder).config.hidden_size
    allowed = 1.15 * few + 2 * MEMORY_TOKENS[1] * width * 4
    return {"few_gib": few / 2**30, "many_gib": many / 2**30, "allowed_gib": allowed / 2**30}


def _peak_bytes(folder: str | None, tokens: int) -> int:
    trimformer.prune(_model(folder), _rows(tokens), budget=Budget(flops=KEPT), method="kprune", calibration_tokens=None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _curves() -> dict[str, float]:
    torch.manual_seed(0)
    features, width = 3072, 768
    inputs, outputs = torch.randn(8192, features), torch.randn(4096, width)
    gram, metric, weight = inputs.T @ inputs / 8192, outputs.T @ outputs / 4096, torch.randn(features, width)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    raised = damped(gram, 1e-4)
    seconds = _seconds(lambda: removal_curve(raised, metric, weight, features, site="ffn"))
    torch.set_num_threads(threads)
    return {"neurons": features, "seconds_on_one_thread": seconds}


def _rows(tokens: int, length: int = 32) -> list[dict[str, list[int]]]:
    ids = torch.randint(1000, 30_000, (tokens // length, length), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "attention_mask": [1] * length} for row in ids.tolist()]


def _model(folder: str | None) -> PreTrainedModel:
    torch.manual_seed(0)
    if folder:
        return trimformer.load_model(folder)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    model: PreTrainedModel = BertForSequenceClassification(config)
    model.eval()
    return model


@torch.inference_mode()
def _forward(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> None:
    model(**batch)


def _forward_backward(model: PreTrainedModel, *batches: dict[str, torch.Tensor]) -> None:
    for batch in batches:
        model(**batch).logits.square().sum().backward()
        model.zero_grad()


def _seconds(work: Any) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


if __name__ == "__main__":
    main()
