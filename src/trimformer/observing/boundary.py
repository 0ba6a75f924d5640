"""Walks a model bottom-up and keeps, for every calibration batch, only the hidden states that enter the current block.

Lower blocks never run twice: a block, or the whole rest of the model, runs from the kept hidden states. Nor does a
block's attention once it is settled: what it puts out is kept as well.
Memory: tokens × width numbers, whatever the depth, and as much again or twice for the attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from trimformer.data.rows import Batch
from trimformer.model.sites import Site
from trimformer.model.structure import Structure
from trimformer.observing.hooks import Reached, forward_replaced, hooked
from trimformer.observing.watching import input_replaced, only_blocks, watching


class Boundary:
    """One model at the entrance of a block."""

    def __init__(self, structure: Structure, batches: list[Batch]) -> None:
        self.structure = structure
        self.batches = batches
        self.block = 0
        self.hidden = [self._embedded(batch) for batch in batches]
        self._ahead: set[int] = set()
        self._settled = False
        self._attended: dict[int, Any] = {}
        self._added: dict[int, Tensor] = {}

    def settle(self) -> None:
        """The current block's attention stays as it is: from now on, each batch runs through it at most once."""
        self._settled = True

    def tail(self, index: int) -> Any:
        """Output of the whole model on a batch, run from the current block on."""
        with self._from_here(index, stop=None):
            return self.structure.model(**self.batches[index])

    def entering(self, index: int, site: Site) -> Tensor:
        """What a sublayer of the current block reads, its producers' input: `(tokens, width)` of one batch."""
        seen: dict[str, Tensor] = {}

        def keep_input(_: nn.Module, args: tuple[Tensor, ...]) -> NoReturn:
            seen["entering"] = args[0]
            raise Reached

        with hooked(self.structure.projection(site.producers[0].path), before=keep_input):
            self._run_block(index, site)
        return self._rows(index, seen["entering"])

    def before(self, index: int, site: Site) -> tuple[Tensor, Tensor]:
        """The residual stream that a sublayer of the current block adds to, and its consumer's input.

        `(tokens, width)` and `(tokens, features)` of one batch, padding left out. The consumer does not run.
        """
        seen: dict[str, Tensor] = {}

        def keep_inputs(_: nn.Module, args: tuple[Tensor, ...]) -> NoReturn:
            seen["inputs"] = args[0]
            raise Reached

        with self._residual_kept(index, site, seen), hooked(self.structure.consumer(site), before=keep_inputs):
            self._run_block(index, site)
        return self._rows(index, seen["residual"]), self._rows(index, seen["inputs"])

    def across(self, index: int, site: Site) -> tuple[Tensor, Tensor]:
        """What a sublayer of the current block reads, and the residual stream with what it added.

        `(tokens, width)` each, of one batch. A sublayer without units reads nothing; the stream it adds to stands for
        that. The FFN being the block's last sublayer, the batch then moves on: until `advance`, nothing more is asked.
        """
        last = site.kind == "neuron"
        seen: dict[str, Tensor] = {}

        def keep_input(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen["entering"] = args[0]

        def keep_output(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            seen["output"] = output

        def end(*_: object) -> None:
            if not last:
                raise Reached

        reading = (
            hooked(self.structure.projection(site.producers[0].path), before=keep_input)
            if site.units
            else nullcontext()
        )
        consuming = hooked(self.structure.consumer(site), after=keep_output)
        ending = hooked(self._last_of(site), after=end)
        with self._residual_kept(index, site, seen), reading, consuming, ending:
            output = self._run_block(index, site)
        after = self._rows(index, seen["residual"]).float() + self._rows(index, seen["output"]).float()
        if last:
            self._move_on(index, output)
        return self._rows(index, seen.get("entering", seen["residual"])), after

    def consumed(self, index: int) -> dict[str, Tensor]:
        """By site, what the consumers of the current block read: `(tokens, features)` of one batch, which moves on."""
        seen: dict[str, Tensor] = {}
        sites = [site for site in self.structure.occupied if site.block == self.block]
        with watching(self.structure, sites, inputs=lambda site, hidden: seen.update({site.name: hidden})):
            self._move_on(index, self._run_block(index))
        return {name: self._rows(index, hidden) for name, hidden in seen.items()}

    def advance(self) -> None:
        """Move to the entrance of the next block; batches that moved on already do not run again."""
        for index in range(len(self.batches)):
            if index not in self._ahead:
                self.hidden[index] = self._run_block(index)
        self._ahead.clear()
        self._attended.clear()
        self._added.clear()
        self._settled = False
        self.block += 1

    def _move_on(self, index: int, output: Tensor) -> None:
        self.hidden[index] = output
        self._ahead.add(index)

    def stand_at(self, block: int, hidden: list[Tensor]) -> None:
        """Go to a block, with the hidden states that enter it by batch."""
        self.block, self.hidden = block, hidden

    @torch.no_grad()
    def _run_block(self, index: int, site: Site | None = None) -> Tensor:
        return self.block_output(index, site)

    def block_output(self, index: int, site: Site | None = None) -> Tensor:
        """Output of the current block on a batch; a hook on a site's modules may end the run early by `Reached`."""
        seen = torch.empty(0)

        def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> NoReturn:
            nonlocal seen
            seen = output if isinstance(output, Tensor) else output[0]
            raise Reached

        block = self.structure.blocks[self.block]
        with hooked(block, after=keep), self._attention_once(index, site), self._from_here(index, stop=self.block + 1):
            self.structure.base(**self.batches[index])
        return seen

    @torch.no_grad()
    def _embedded(self, batch: Batch) -> Tensor:
        seen = torch.empty(0)

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
            nonlocal seen
            seen = args[0] if args else kwargs["hidden_states"]
            raise Reached

        with hooked(self.structure.blocks[0], before_with_kwargs=keep):
            self.structure.base(**batch)
        return seen

    def _rows(self, index: int, values: Tensor) -> Tensor:
        mask = self.batches[index]["attention_mask"].bool().flatten()
        rows = values.reshape(len(mask), values.shape[-1])
        return rows if bool(mask.all()) else rows[mask]

    @contextmanager
    def _residual_kept(self, index: int, site: Site, seen: dict[str, Tensor]) -> Iterator[None]:
        """Attention adds to the block's input. With post-norm the FFN adds to its own input.

        With pre-norm it adds to what attention left. Where both read the block's input (parallel residual) their sum is
        the same, so that the FFN, refitted second, makes up for what attention lacks.
        """
        hidden = self.hidden[index]
        if site.kind == "head":
            seen["residual"] = hidden
            yield
            return

        def keep_input(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen["residual"] = args[0]

        def keep_sum(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            seen["residual"] = hidden + output

        if index in self._added:
            seen["residual"] = hidden + self._added[index]
            yield
            return
        if self.structure.pre_norm:
            attention = self.structure.consumer(self.structure.attention_of(site.block))
            hook = hooked(attention, after=keep_sum)
        else:
            hook = hooked(self.structure.projection(site.producers[0].path), before=keep_input)
        with hook:
            yield

    def _last_of(self, site: Site) -> nn.Module:
        """The module that ends last in a sublayer: its core, where the consumer is part of it, else the consumer."""
        inside = site.core is not None and site.consumer.startswith(f"{site.core}.")
        return self.structure.base.get_submodule(site.core if inside and site.core else site.consumer)

    @contextmanager
    def _attention_once(self, index: int, asked: Site | None) -> Iterator[None]:
        """Where attention is settled, what it puts out is kept, and given back to runs that ask for what follows."""
        site = self.structure.attention_of(self.block)
        if not self._settled or not site.units or site.core is None:
            yield
            return
        core = self.structure.base.get_submodule(site.core)
        if index in self._attended and asked != site:
            with forward_replaced(core, self._attended[index]):
                yield
            return

        def keep_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            self._attended[index] = output

        def keep_added(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            if self.structure.pre_norm:
                self._added[index] = output

        handles = [
            core.register_forward_hook(keep_output, prepend=True),
            self.structure.consumer(site).register_forward_hook(keep_added, prepend=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _from_here(self, index: int, stop: int | None) -> Iterator[None]:
        block = self.structure.blocks[self.block]
        with only_blocks(self.structure, self.block, stop), input_replaced(block, self.hidden[index]):
            yield
