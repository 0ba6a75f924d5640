"""What enters the first block of a chain, and what need not run where that is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trimformer.data.rows import Batch
from trimformer.model.offload import is_offloaded
from trimformer.model.structure import Structure
from trimformer.observing.hooks import Reached, forward_replaced, hooked
from trimformer.observing.watching import below_the_head, input_replaced

ROWS = 2
"""Rows of a batch by which it is found out what need not run."""


@torch.no_grad()
def entering_passes(structure: Structure, batch: Batch, chain: int = 0) -> list[Tensor]:
    """Run a model up to the last pass of a chain; give what enters each: hidden states `(batch, length, width)`."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(first_input(args, kwargs))
        if len(seen) == structure.passes(chain):
            raise Reached

    with hooked(structure.blocks(chain)[0], before_with_kwargs=keep):
        below_the_head(structure, batch)
    return seen


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Find the hidden states that a module reads, however it was called."""
    found: Tensor = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values())))
    return found


@torch.no_grad()
def unneeded(structure: Structure, batch: Batch, chain: int = 0) -> list[nn.Module]:
    """Find the modules, such as embeddings, that need not run where the input of a chain's first block is known.

    Those that run before that block and give such hidden states; without which the model, given that input, puts out
    the same for some rows. Others run in between, so that whatever a module notes down of its rows is then amiss.
    None are looked for where weights are not in memory, and where not all of a batch is by row.
    """
    if is_offloaded(structure.model) or len({len(values) for values in batch.values()}) > 1:
        return []
    rows = {name: values[:ROWS] for name, values in batch.items()}
    hidden, candidates = _before(structure, rows, chain)
    expected = _outputs(structure, rows)
    _outputs(structure, {name: values.flip(*range(min(2, values.ndim))) for name, values in rows.items()})

    def same_without(module: nn.Module) -> bool:
        given = input_replaced(structure.blocks(chain)[0], hidden)
        with given, left_out([module], hidden):
            found = _outputs(structure, rows)
        return len(found) == len(expected) and all(map(torch.equal, found, expected))

    return [module for module in candidates if same_without(module)]


@contextmanager
def left_out(modules: list[nn.Module], hidden: Tensor) -> Iterator[None]:
    """Within the context, modules compute nothing, and give zeros in the shape of hidden states."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(forward_replaced(module, torch.zeros_like(hidden)))
        yield


def _before(structure: Structure, rows: Batch, chain: int) -> tuple[Tensor, list[nn.Module]]:
    """Give what enters the first block of a chain, and the outermost modules before it that put out the like of it."""
    outputs: dict[nn.Module, Any] = {}
    with ExitStack() as stack:
        for module in structure.model.modules():
            stack.callback(module.register_forward_hook(lambda each, _, output: outputs.update({each: output})).remove)
        hidden = entering_passes(structure, rows, chain)[0]
    inside = {child for module in outputs for child in module.modules() if child is not module}
    return hidden, [module for module in outputs if module not in inside and _is_like(outputs[module], hidden)]


def _is_like(output: Any, hidden: Tensor) -> bool:
    return isinstance(output, Tensor) and output.ndim == hidden.ndim and output.shape[-1] == hidden.shape[-1]


def _outputs(structure: Structure, rows: Batch) -> list[Tensor]:
    """Run a model, and give all that it puts out; of a language model what its head reads, since logits are large."""
    seen: list[Any] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        seen.append(output)
        if structure.model.get_output_embeddings() is not None:
            raise Reached

    with hooked(structure.base, after=keep):
        seen.append(structure.model(**rows))
    outputs = seen[-1].values() if isinstance(seen[-1], Mapping) else seen[-1]
    return [value for value in outputs if isinstance(value, Tensor)]
