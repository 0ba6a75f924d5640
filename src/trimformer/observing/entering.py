"""What enters the first block of a chain, and which module makes it."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
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
    found = [module for module, output in seen if output is hidden]
    if not found or sum(module is found[-1] for module, _ in seen) > 1:
        return None
    ways = [_first_block(structure, batch, chain, hidden, made) for made in (None, found[-1])]
    return found[-1] if torch.equal(*ways) else None


@torch.no_grad()
def _first_block(structure: Structure, batch: Batch, chain: int, hidden: Tensor, made: nn.Module | None) -> Tensor:
    """Run the first block of a chain; what makes its input, if given, gives zeros instead."""
    output = torch.empty(0)

    def keep(_: nn.Module, __: tuple[Any, ...], found: Any) -> None:
        nonlocal output
        output = found if isinstance(found, Tensor) else found[0]
        raise Reached

    block = structure.blocks(chain)[0]
    left_out = nullcontext() if made is None else forward_replaced(made, torch.zeros_like(hidden))
    with hooked(block, after=keep), left_out, only_blocks(structure, 0, 1, chain), input_replaced(block, hidden):
        below_the_head(structure, batch)
    return output
