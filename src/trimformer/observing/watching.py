"""Look into a model while it runs: what goes into the consumers, and the gradients there.

Every temporary change of a model (hooks, eval mode, gradients, fewer blocks) is a context manager that undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trimformer.data.rows import Batch
from trimformer.errors import NumericalError
from trimformer.model.sites import Site
from trimformer.model.structure import Structure
from trimformer.observing.hooks import Reached, hooked

SeeInputs = Callable[[Site, Tensor], None]
"""Function called with a site and its consumer's input, `(batch, length, features)`."""
SeeInputGradients = Callable[[Site, Tensor, Tensor], None]
"""Function called with a site, its consumer's input and the gradient there, `(batch, length, features)` each."""
SeeOutputGradients = Callable[[Site, Tensor], None]
"""Function called with a site and the gradient at its consumer's output, `(batch, length, width)`."""
SeeQueryGradients = Callable[[Site, Tensor, Tensor], None]
"""Function called with a site whose units are dimensions, its queries and the gradient, `(batch, length, units)`."""


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within the context, a model is in eval mode and no parameter needs a gradient; then each is as it was.

    A module that took another's place meanwhile is in the mode of that one.
    """
    training = {name: module.training for name, module in model.named_modules()}
    learning = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.eval()
        model.requires_grad_(requires_grad=False)
        yield
    finally:
        for name, module in model.named_modules():
            module.training = training.get(name, training[""])
        for parameter in model.parameters():
            if not parameter.is_meta:
                parameter.requires_grad_(learning.get(parameter, True))


def below_the_head(structure: Structure, batch: Batch) -> None:
    """Run a model on a batch without its task head, which may change what the model reads: it flattens choices, say."""

    def end(*_: object) -> None:
        raise Reached

    with hooked(structure.base, after=end):
        structure.model(**batch)


@contextmanager
def watching(
    structure: Structure,
    sites: Iterable[Site],
    *,
    inputs: SeeInputs | None = None,
    input_gradients: SeeInputGradients | None = None,
    output_gradients: SeeOutputGradients | None = None,
) -> Iterator[None]:
    """Within the context, forward and backward passes report on the consumers of some sites.

    With `input_gradients` or `output_gradients`, the lowest of the sites becomes the place where the gradient's graph
    begins: nothing below it is differentiated, and no parameter needs a gradient.
    """
    backward = input_gradients is not None or output_gradients is not None
    chains = [_BySequence() for _ in structure.architecture.chains]

    def before(site: Site, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        hidden, by_sequence = arguments[0], chains[site.chain]
        if inputs is not None:
            inputs(site, by_sequence(hidden.detach()))
        if not backward:
            return None
        if not hidden.requires_grad:
            hidden = hidden.detach().requires_grad_()
        if input_gradients is not None:
            seen = by_sequence(hidden.detach())
            hidden.register_hook(lambda gradient: input_gradients(site, seen, by_sequence(gradient)))
        return (hidden, *arguments[1:])

    def after(site: Site, output: Tensor) -> None:
        if output_gradients is not None:
            output.register_hook(lambda gradient: output_gradients(site, chains[site.chain](gradient)))

    with ExitStack() as stack:
        for chain, block in _all_blocks(structure):
            stack.callback(block.register_forward_pre_hook(chains[chain].note, with_kwargs=True).remove)
        for site in sites:
            consumer = structure.consumer(site)
            stack.callback(consumer.register_forward_pre_hook(lambda _, args, s=site: before(s, args)).remove)
            stack.callback(consumer.register_forward_hook(lambda _, __, out, s=site: after(s, out)).remove)
        yield


@contextmanager
def watching_queries(structure: Structure, sites: Iterable[Site], see: SeeQueryGradients) -> Iterator[None]:
    """Within the context, forward and backward passes report on the queries of sites whose units are dimensions.

    The lowest of them becomes the place where the gradient's graph begins.
    """

    def after(site: Site, output: Tensor) -> Tensor:
        queries = output if output.requires_grad else output.detach().requires_grad_()
        seen = queries.detach()[..., : site.units]
        queries.register_hook(lambda gradient: see(site, seen, gradient[..., : site.units]))
        return queries

    with ExitStack() as stack:
        for site in sites:
            if site.head_width:
                projection = structure.module(site.producers[0].path)
                stack.callback(projection.register_forward_hook(lambda _, __, out, s=site: after(s, out)).remove)
        yield


def _all_blocks(structure: Structure) -> Iterator[tuple[int, nn.Module]]:
    """Yield every block, with the number of its chain."""
    for chain in range(len(structure.architecture.chains)):
        yield from ((chain, block) for block in structure.blocks(chain))


class _BySequence:
    """Restores `(batch, length, …)` where a block of a chain dropped it: OPT runs its FFN on tokens in one row."""

    shape: torch.Size

    def note(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.shape = (args[0] if args else kwargs["hidden_states"]).shape[:2]

    def __call__(self, values: Tensor) -> Tensor:
        return values.reshape(*self.shape, values.shape[-1])


@contextmanager
def only_blocks(structure: Structure, start: int, stop: int | None = None, chain: int = 0) -> Iterator[None]:
    """Within the context, a chain consists of its blocks `start … stop − 1`, and keeps no keys and values."""
    owner_path, _, name = structure.architecture.chains[chain].blocks.rpartition(".")
    owner, blocks, config = structure.module(owner_path), structure.blocks(chain), structure.config(chain)
    before = {key: config.__dict__[key] for key in ("layer_types", "use_cache") if config.__dict__.get(key)}
    changed = {key: before[key][start:stop] if key == "layer_types" else False for key in before}
    try:
        setattr(owner, name, blocks[start:stop])
        vars(config).update(changed)
        yield
    finally:
        setattr(owner, name, blocks)
        vars(config).update(before)


@contextmanager
def input_replaced(block: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Within the context, a block gets these hidden states, whatever is computed below it; in its first pass only."""

    def replace(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        handle.remove()
        return ((hidden, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": hidden})

    handle = block.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def check_finite(values: Tensor, site: str) -> None:
    """Refuse NaN and infinity in activations or statistics.

    Raises:
        NumericalError: names the site.
    """
    if not bool(torch.isfinite(values).all()):
        raise NumericalError(
            f"NaN or infinite activations at site {site}: load the model in float32, or check it on this data"
        )
