"""Temporary hooks on a module: see or replace what goes in and out, or end a forward pass early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class Reached(Exception):
    """Raised in a hook to end a forward pass, once everything asked for was seen."""


@contextmanager
def forward_replaced(module: nn.Module, output: Any) -> Iterator[None]:
    """Within the context, a module computes nothing and gives a known output."""
    before = vars(module).get("forward")
    try:
        module.forward = lambda *_, **__: output
        yield
    finally:
        vars(module).pop("forward", None)
        if before is not None:
            module.forward = before


@contextmanager
def hooked(
    module: nn.Module, *, before: Any = None, after: Any = None, before_with_kwargs: Any = None
) -> Iterator[None]:
    """Within the context, a module has one hook; `Reached`, by which a hook ends a run, goes no further."""
    if after is not None:
        handle = module.register_forward_hook(after)
    else:
        handle = module.register_forward_pre_hook(before or before_with_kwargs, with_kwargs=before is None)
    try:
        yield
    except Reached:
        pass
    finally:
        handle.remove()
