"""Walk a model bottom-up and keep, for every calibration batch, only the hidden states that enter the current block.

Lower blocks never run twice: a block, or the whole rest of the model, runs from the kept hidden states. Nor does a
sublayer's core once it is settled: what it puts out is kept as well.
Memory: tokens × width numbers, whatever the depth, and as much again or twice for each settled core of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from trimformer.data.rows import Batch
from trimformer.model.sites import Site
from trimformer.model.structure import Structure
from trimformer.observing.entering import entering_passes, first_input, left_out, unneeded
from trimformer.observing.hooks import Reached, forward_replaced, hooked
from trimformer.observing.precision import mixed_precision
from trimformer.observing.watching import below_the_head, input_replaced, only_blocks, watching


@dataclass(frozen=True)
class Crossing:
    """Hidden states of one batch where it passes a sublayer; rows of tokens are without padding."""

    entering: Tensor
    """Input of the sublayer, `(tokens, width)`; of one without units, the stream that it adds to."""
    leaving: Tensor
    """Residual stream with what was added; behind a norm, the consumer's own output. `(tokens, width)`, float32."""
    block_output: Tensor | None
    """Output of the block, `(batch, length, width)`, where the sublayer is its last one; else None."""


@dataclass
class _Kept:
    """Output of a settled core for one batch, and what the sublayer added to the stream; None where not seen."""

    output: Any = None
    added: Tensor | None = None


class Boundary:
    """One model at the entrance of a block, with the hidden states that enter it, batch by batch.

    Where the blocks run several times, every batch is there once for each pass, all in the first pass before all in
    the second, each with the hidden states that enter that pass.
    """

    def __init__(self, structure: Structure, batches: list[Batch], chain: int = 0, *, mixed: bool = False) -> None:
        """Read what enters the first block of a chain; `mixed` has blocks run in mixed precision where that pays."""
        passes = structure.passes(chain)
        streams = [entering_passes(structure, batch, chain) for batch in batches]
        self.structure = structure
        self.batches = batches * passes
        self.chain = chain
        self.mixed = mixed
        self.block = 0
        self.hidden = [stream[number] for number in range(passes) for stream in streams]
        self._unneeded = unneeded(structure, batches[0], chain) if batches else []
        """What need not run again, since the hidden states are known."""
        self._settled: dict[str, Site] = {}
        self._kept: dict[tuple[str, int], _Kept] = {}

    @property
    def sites(self) -> list[Site]:
        """Sites of the current block."""
        return self.structure.of_block(self.chain, self.block)

    def settle(self, sites: Iterable[Site]) -> None:
        """Declare that some sublayers of the current block stay as they are: a batch runs through their cores once."""
        self._settled |= {site.name: site for site in sites}

    def tail(self, index: int) -> Any:
        """Run the whole model on a batch, from the current block on, and give its output."""
        with self._from_here(index, stop=None):
            return self.structure.model(**self.batches[index])

    def entering(self, index: int, site: Site) -> Tensor:
        """Give what a sublayer of the current block reads, its producers' input: `(tokens, width)` of one batch."""
        seen: dict[str, Tensor] = {}

        def keep_input(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> NoReturn:
            seen["entering"] = first_input(args, kwargs)
            raise Reached

        with hooked(self.structure.entrance(site), before_with_kwargs=keep_input):
            self._run_block(index, site)
        return self.unpadded(index, seen["entering"])

    def before(self, index: int, site: Site) -> tuple[Tensor, Tensor]:
        """Give the residual stream that a sublayer of the current block adds to, and its consumer's input.

        `(tokens, width)` and `(tokens, features)` of one batch, padding left out. The consumer does not run.
        """
        seen: dict[str, Tensor] = {}

        def keep_inputs(_: nn.Module, args: tuple[Tensor, ...]) -> NoReturn:
            seen["inputs"] = args[0]
            raise Reached

        with self._residual_kept(index, site, seen), hooked(self.structure.consumer(site), before=keep_inputs):
            self._run_block(index, site)
        return self.unpadded(index, seen["residual"]), self.unpadded(index, seen["inputs"])

    def across(self, index: int, site: Site) -> Crossing:
        """Give what a sublayer of the current block reads and what leaves it; the last one runs the whole block."""
        seen: dict[str, Tensor] = {}

        def keep_input(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            seen["entering"] = first_input(args, kwargs)

        def keep_output(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            seen["output"] = output.clone()  # some blocks add to it in place

        def end(*_: object) -> None:
            if not site.last_in_block:
                raise Reached

        entrance = self.structure.entrance(site)
        reading = hooked(entrance, before_with_kwargs=keep_input) if site.units else nullcontext()
        consuming = hooked(self.structure.consumer(site), after=keep_output)
        ending = hooked(self._last_of(site), after=end)
        with self._residual_kept(index, site, seen), reading, consuming, ending:
            output = self._run_block(index, site)
        entering = self.unpadded(index, seen.get("entering", seen["residual"]))
        own = self.unpadded(index, seen["output"]).float()
        leaving = own if site.norm else self.unpadded(index, seen["residual"]).float() + _scaled(own, site)
        return Crossing(entering, leaving, output if site.last_in_block else None)

    def consumed(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        """Run the current block on a batch: by site what its consumers read, `(tokens, features)`, and its output."""
        seen: dict[str, Tensor] = {}
        sites = [site for site in self.sites if site.units]
        with watching(self.structure, sites, inputs=lambda site, hidden: seen.update({site.name: hidden})):
            output = self._run_block(index)
        return {name: self.unpadded(index, hidden) for name, hidden in seen.items()}, output

    def advance(self, outputs: Mapping[int, Tensor] | None = None) -> None:
        """Move to the entrance of the next block; batches whose output of this block is given do not run again."""
        known = outputs or {}
        for index in range(len(self.batches)):
            self.hidden[index] = known[index] if index in known else self._run_block(index)
        self._kept.clear()
        self._settled.clear()
        self.block += 1

    def stand_at(self, block: int, hidden: list[Tensor]) -> None:
        """Go to a block, with the hidden states that enter it by batch."""
        self.block, self.hidden = block, hidden

    @torch.no_grad()
    def _run_block(self, index: int, site: Site | None = None) -> Tensor:
        return self.block_output(index, site)

    def block_output(self, index: int, site: Site | None = None) -> Tensor:
        """Run the current block on a batch and give its output; empty where a hook ends the run early by `Reached`.

        Settled cores do not run again, but for that of `site`. Where a block cannot run in mixed precision, because its
        code puts values of both types together, neither this one nor any further ones do.
        """
        try:
            return self._output_of_block(index, site)
        except RuntimeError:
            if not self.mixed:
                raise
            self.mixed = False
            return self._output_of_block(index, site)

    def _output_of_block(self, index: int, site: Site | None) -> Tensor:
        seen = torch.empty(0)

        def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> NoReturn:
            nonlocal seen
            seen = output if isinstance(output, Tensor) else output[0]
            raise Reached

        block = self.structure.blocks(self.chain)[self.block]
        with hooked(block, after=keep), self._settled_once(index, site), self._from_here(index, stop=self.block + 1):
            below_the_head(self.structure, self.batches[index])
        return seen.to(self.hidden[index].dtype)

    def unpadded(self, index: int, values: Tensor) -> Tensor:
        """Give what the chain computes for the real tokens of one batch: `(tokens, width)`."""
        return self.structure.unpadded(values, self.batches[index], self.chain)

    @contextmanager
    def _residual_kept(self, index: int, site: Site, seen: dict[str, Tensor]) -> Iterator[None]:
        """Within the context, note the residual stream that a sublayer adds to: block input and earlier additions.

        With post-norm a sublayer adds to its own input. Where sublayers stand side by side (parallel residual) their
        sum is the same, so that the second, refitted after the first, makes up for what that lacks.
        """
        seen["residual"] = self.hidden[index]
        earlier = [each for each in self.sites if each.order < site.order]
        if site.residual is not None:
            with self._input_kept(self.structure.module(site.residual.path), site.residual.argument, seen):
                yield
        elif earlier and not self.structure.pre_norm(self.chain):
            with self._input_kept(self.structure.entrance(site), 0, seen):
                yield
        else:
            with ExitStack() as stack:
                for each in earlier:
                    stack.enter_context(self._addition_kept(index, each, seen))
                yield

    @contextmanager
    def _input_kept(self, module: nn.Module, argument: int, seen: dict[str, Tensor]) -> Iterator[None]:
        """Within the context, note an argument of a module, by its number, as the residual stream."""

        def keep_input(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            seen["residual"] = first_input(args, kwargs) if argument == 0 else (*args, *kwargs.values())[argument]

        with hooked(module, before_with_kwargs=keep_input):
            yield

    @contextmanager
    def _addition_kept(self, index: int, site: Site, seen: dict[str, Tensor]) -> Iterator[None]:
        """Within the context, add to the residual noted what an earlier sublayer adds to it, known or when it comes."""
        known = self._kept.get((site.name, index), _Kept()).added

        def add(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            seen["residual"] = seen["residual"] + _scaled(output, site)

        if known is not None:
            seen["residual"] = seen["residual"] + _scaled(known, site)
            yield
            return
        with hooked(self.structure.added(site), after=add):
            yield

    def _last_of(self, site: Site) -> nn.Module:
        """Find the module that ends last in a sublayer: its core, if the consumer is part of it, else the consumer."""
        inside = site.core is not None and site.consumer.startswith(f"{site.core}.")
        return self.structure.module(site.core if inside and site.core else site.consumer)

    @contextmanager
    def _settled_once(self, index: int, asked: Site | None) -> Iterator[None]:
        """Within the context, keep what settled cores put out, and give it back to runs that ask for what follows."""
        with ExitStack() as stack:
            for site in self._settled.values():
                if site.units and site.core is not None:
                    stack.enter_context(self._once(index, site, site.core, asked))
            yield

    @contextmanager
    def _once(self, index: int, site: Site, path: str, asked: Site | None) -> Iterator[None]:
        core, key = self.structure.module(path), (site.name, index)
        if key in self._kept and asked != site:
            with forward_replaced(core, self._kept[key].output):
                yield
            return
        kept = _Kept()

        def keep_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            kept.output = output
            self._kept[key] = kept

        def keep_added(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            if self.structure.pre_norm(self.chain):
                kept.added = output

        handles = [
            core.register_forward_hook(keep_output, prepend=True),
            self.structure.added(site).register_forward_hook(keep_added, prepend=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _from_here(self, index: int, stop: int | None) -> Iterator[None]:
        block, hidden = self.structure.blocks(self.chain)[self.block], self.hidden[index]
        with ExitStack() as stack:
            stack.enter_context(left_out(self._unneeded, hidden))
            stack.enter_context(only_blocks(self.structure, self.block, stop, self.chain))
            stack.enter_context(input_replaced(block, hidden))
            if self.mixed:
                stack.enter_context(mixed_precision(hidden))
            yield


def _scaled(output: Tensor, site: Site) -> Tensor:
    """Multiply a sublayer's output by the site's multiplier: what is then added to the residual stream."""
    return output if site.multiplier == 1 else site.multiplier * output
