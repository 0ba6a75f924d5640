"""Tokens that decoders generate in a second, dense and pruned, in turn: one row at once, and a batch.

    python benchmarks/generation.py DENSE SMALLER [SMALLER …] [--batches 1,8] [--tokens 64] [--runs 5] [--device cpu]

Greedy, with a key/value cache, from random prompts of 32 tokens; the end of a text does not end it. The median over the
runs is shown with its quartiles, and the ratio to the first model. Prints a JSON object for every model and batch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from time import perf_counter
from typing import Any

import numpy as np
import torch

import trimformer
from trimformer.observing.resources import Machine

PROMPT = 32


def main() -> None:
    """Time all models in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    models = {name: trimformer.load_model(name).to(asked.device).eval() for name in asked.models}
    for batch in map(int, asked.batches.split(",")):
        for name, found in rates(models, batch, tokens=asked.tokens, runs=asked.runs).items():
            facts = {"model": name, "rows": batch, "tokens": asked.tokens, "threads": torch.get_num_threads()}
            print(json.dumps(facts | {"machine": asdict(Machine.now(models[name].device))} | found), flush=True)


def rates(models: Mapping[str, Any], rows: int, *, tokens: int = 64, runs: int = 5) -> dict[str, dict[str, Any]]:
    """Time models in turn: tokens in a second, with quartiles over the runs, and how many times the first one's."""
    vocabulary = next(iter(models.values())).config.vocab_size
    prompt = torch.randint(vocabulary // 2, (rows, PROMPT), generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {name: [] for name in models}
    for run in range(runs + 1):
        for name, model in models.items():
            seconds = generate(model, prompt.to(model.device), tokens)
            times[name] += [seconds] * (run > 0)  # the first round warms up
    first = float(np.median(next(iter(times.values()))))
    found = {}
    for name, each in times.items():
        low, middle, high = (round(float(rows * tokens / np.quantile(each, part)), 1) for part in (0.75, 0.5, 0.25))
        speedup = round(first / float(np.median(each)), 3)
        found[name] = {"tokens_a_second": middle, "quartiles": [low, high], "speedup": speedup}
    return found


@torch.inference_mode()
def generate(model: Any, prompt: torch.Tensor, tokens: int) -> float:
    """Generate so many tokens after each prompt; gives the seconds that it took."""
    start = perf_counter()
    found = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
    if prompt.device.type == "cuda":
        torch.cuda.synchronize()
    if found.shape[1] != prompt.shape[1] + tokens:
        raise RuntimeError(f"{found.shape[1] - prompt.shape[1]} tokens were generated in place of {tokens}")
    return perf_counter() - start


if __name__ == "__main__":
    main()
