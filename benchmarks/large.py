"""Whether a large decoder is pruned within the memory and time of an ordinary machine.

    python benchmarks/large.py [--layers 26] [--tokens 2048] [--flops 0.8] [--dtype bfloat16] [--no-gradients]

A randomly initialised Llama with grouped-query attention, by default about 1.3 billion parameters in bfloat16, is
pruned by Surgeon and saved. Prints and stores seconds by stage, minutes on the clock and of the CPU (a busy machine
has more of the first), peak resident memory of the whole process, and what was estimated before the work started, in
`benchmarks/results/large.json`: one entry a size and setting.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from trimformer import Budget, Pruner, save
from trimformer.cli.console import error_console, progress_bars
from trimformer.model.folders import write_text
from trimformer.model.manifest import versions
from trimformer.model.structure import parameter_count
from trimformer.observing.resources import Machine
from trimformer.pruning.memory import footprint

RESULTS = Path(__file__).parent / "results" / "large.json"
LENGTH = 256
WIDTH, NEURONS, HEADS, KEY_VALUE_HEADS, VOCABULARY = 2048, 5504, 32, 8, 32_000
"""Of one block; 26 blocks have 1.28 billion parameters with embeddings."""


def main() -> None:
    """Build, prune, save, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--flops", type=float, default=0.8)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--no-gradients", action="store_true")
    arguments = parser.parse_args()
    facts = _pruned(arguments)
    print(json.dumps(facts, indent=2), flush=True)
    name = f"{facts['parameters'] / 1e9:.2f} B, {arguments.dtype}{', no gradients' * arguments.no_gradients}"
    stored: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    write_text(json.dumps(stored | {name: facts}, indent=2) + "\n", RESULTS)


def _pruned(arguments: argparse.Namespace) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    start = perf_counter()
    model = _model(arguments.layers, getattr(torch, arguments.dtype))
    seconds["building"] = perf_counter() - start
    peaks = {"building": _peak_gb()}
    with progress_bars(error_console) as progress:
        start = perf_counter()
        options = {"gradients": not arguments.no_gradients}
        pruner = Pruner(model, _rows(arguments.tokens), calibration_tokens=None, options=options, progress=progress)
        calibration = pruner.calibration
        estimate = footprint(calibration.dense, calibration.batches, pruner.method)
        seconds["checking"] = perf_counter() - start
        _ = pruner.measured
        peaks["measuring"] = _peak_gb()
        result = pruner.prune(Budget(flops=arguments.flops))
        peaks["pruning"] = _peak_gb()
    seconds |= result.manifest["seconds"]
    start = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        save(result.model, Path(folder) / "pruned", manifest=result.manifest)
    seconds["saving"] = perf_counter() - start
    return {
        "parameters": parameter_count(model),
        "parameters_after": parameter_count(result.model),
        "flops": result.manifest["kept"]["flops"],
        "tokens": calibration.tokens,
        "dtype": arguments.dtype,
        "gradients": options["gradients"],
        "seconds": seconds,
        "minutes": sum(seconds.values()) / 60,
        "cpu_minutes": process_time() / 60,
        "peak_gb": peaks | {"saving": _peak_gb()},
        "estimate_gb": (parameter_count(model) * model.dtype.itemsize + estimate.needed) / 1e9,
        "threads": torch.get_num_threads(),
        "machine": asdict(Machine.now(model.device)),
        "versions": versions(),
    }


def _model(layers: int, dtype: torch.dtype) -> PreTrainedModel:
    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=NEURONS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        vocab_size=VOCABULARY,
        num_hidden_layers=layers,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.eval()
    return model


def _rows(tokens: int) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": row}
        for row in torch.randint(3, VOCABULARY, (tokens // LENGTH, LENGTH), generator=generator).tolist()
    ]


def _peak_gb() -> float:
    """Largest resident size of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
