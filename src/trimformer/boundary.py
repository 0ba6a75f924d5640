"""Walks a model bottom-up and keeps, for every calibration batch, only the hidden states that enter the current block.

Lower blocks never run twice: a block, or the whole rest of the model, runs from the kept hidden states.
Memory: tokens × width numbers, whatever the depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from trimformer.calibration import input_replaced, only_blocks
from trimformer.interfaces import Batch, Site
from trimformer.structure import Structure


class _Reached(Exception):
    """Ends a forward pass once everything asked for was seen."""


class Boundary:
    """One model at the entrance of a block."""

    def __init__(self, structure: Structure, batches: list[Batch]) -> None:
        self.structure = structure
        self.batches = batches
        self.block = 0
        self.hidden = [self._embedded(batch) for batch in batches]

    def tail(self, index: int) -> Any:
        """Output of the whole model on a batch, run from the current block on."""
        with self._from_here(index, stop=None):
            return self.structure.model(**self.batches[index])

    def before(self, index: int, site: Site) -> tuple[Tensor, Tensor]:
        """The residual stream that a sublayer of the current block adds to, and its consumer's input.

        `(tokens, width)` and `(tokens, features)` of one batch, padding left out. The consumer does not run.
        """
        seen: dict[str, Tensor] = {}

        def keep_inputs(_: nn.Module, args: tuple[Tensor, ...]) -> NoReturn:
            seen["inputs"] = args[0]
            raise _Reached

        with self._residual_kept(index, site, seen), _hook(self.structure.consumer(site), before=keep_inputs):
            self._run_block(index)
        return self._rows(index, seen["residual"]), self._rows(index, seen["inputs"])

    def after(self, index: int, site: Site) -> Tensor:
        """The residual stream with what a sublayer of the current block added to it: `(tokens, width)` of one batch."""
        seen: dict[str, Tensor] = {}

        def keep_output(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> NoReturn:
            seen["output"] = output
            raise _Reached

        with self._residual_kept(index, site, seen), _hook(self.structure.consumer(site), after=keep_output):
            self._run_block(index)
        return self._rows(index, seen["residual"].float() + seen["output"].float())

    def advance(self) -> None:
        """Move to the entrance of the next block."""
        for index in range(len(self.batches)):
            self.hidden[index] = self._run_block(index)
        self.block += 1

    @torch.no_grad()
    def _run_block(self, index: int) -> Tensor:
        """Output of the current block; a hook that raises `_Reached` ends the run early."""
        seen = torch.empty(0)

        def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> NoReturn:
            nonlocal seen
            seen = output if isinstance(output, Tensor) else output[0]
            raise _Reached

        with _hook(self.structure.blocks[self.block], after=keep), self._from_here(index, stop=self.block + 1):
            self.structure.base(**self.batches[index])
        return seen

    @torch.no_grad()
    def _embedded(self, batch: Batch) -> Tensor:
        seen = torch.empty(0)

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
            nonlocal seen
            seen = args[0] if args else kwargs["hidden_states"]
            raise _Reached

        with _hook(self.structure.blocks[0], before_with_kwargs=keep):
            self.structure.base(**batch)
        return seen

    def _rows(self, index: int, values: Tensor) -> Tensor:
        mask = self.batches[index]["attention_mask"].bool()
        return values.flatten(0, 1) if bool(mask.all()) else values[mask]

    @contextmanager
    def _residual_kept(self, index: int, site: Site, seen: dict[str, Tensor]) -> Iterator[None]:
        """Post-norm: attention adds to the block's input, the FFN to its own."""
        if site.kind == "head":
            seen["residual"] = self.hidden[index]
            yield
            return

        def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen["residual"] = args[0]

        with _hook(self.structure.linear(site.producers[0]), before=keep):
            yield

    @contextmanager
    def _from_here(self, index: int, stop: int | None) -> Iterator[None]:
        block = self.structure.blocks[self.block]
        with only_blocks(self.structure, self.block, stop), input_replaced(block, self.hidden[index]):
            yield


@contextmanager
def _hook(
    module: nn.Module, *, before: Any = None, after: Any = None, before_with_kwargs: Any = None
) -> Iterator[None]:
    """One hook on a module; removed at the end, and the end of a run by `_Reached` is no error."""
    if after is not None:
        handle = module.register_forward_hook(after)
    else:
        handle = module.register_forward_pre_hook(before or before_with_kwargs, with_kwargs=before is None)
    try:
        yield
    except _Reached:
        pass
    finally:
        handle.remove()
