"""What enters the first block of a chain, and which module makes it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from trimformer.data.rows import Batch
from trimformer.model.structure import Structure
from trimformer.observing.hooks import Reached, forward_replaced, hooked
from trimformer.observing.watching import below_the_head, input_replaced, only_blocks


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


def maker(structure: Structure, batch: Batch, chain: int = 0) -> nn.Module | None:
    """Find the module that makes what enters a chain, such as the embeddings of BERT with their norm.

    It need not run where a block's input is known. None where there is no module whose output enters as it is; where it
    runs more than once, as embeddings shared by encoder and decoder do; and where something else reads its output too.
    """
    if structure.passes(chain) > 1:
        return None
    seen: list[tuple[nn.Module, Any]] = []
    with ExitStack() as stack:
        for module in structure.model.modules():
            stack.callback(module.register_forward_hook(lambda each, _, output: seen.append((each, output))).remove)
        (hidden,) = entering_passes(structure, batch, chain)
    found = next((module for module, output in reversed(seen) if output is hidden), None)
    if found is None:
        return None
    runs: list[nn.Module] = []
    with hooked(found, after=lambda module, *_: runs.append(module)):
        expected = _first_block(structure, batch, chain, hidden)
    with forward_replaced(found, torch.zeros_like(hidden)):
        same = torch.equal(expected, _first_block(structure, batch, chain, hidden))
    return found if same and len(runs) == 1 else None


@torch.no_grad()
def _first_block(structure: Structure, batch: Batch, chain: int, hidden: Tensor) -> Tensor:
    """Run a model, but for its head, with the first block of a chain alone; give that block's output."""
    output = torch.empty(0)

    def keep(_: nn.Module, __: tuple[Any, ...], found: Any) -> None:
        nonlocal output
        output = (found if isinstance(found, Tensor) else found[0]).clone()

    block = structure.blocks(chain)[0]
    with hooked(block, after=keep), only_blocks(structure, 0, 1, chain), input_replaced(block, hidden):
        below_the_head(structure, batch)
    return output
