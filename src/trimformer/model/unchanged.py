"""A model that stays as it was given, whatever happens to a run: an exception may come between any two steps of Python.

Temporary changes are undone where they are made, by contexts. Ctrl-C may come within these, before a change is known or
while it is undone; so the outermost context remembers all that is ever changed for a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

from torch import nn

Work = TypeVar("Work", bound=Callable[..., Any])


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Within the context, an exception leaves a model with the attributes, modules, hooks and config it had before.

    Modes and what parameters need of gradients are among that; numbers in weights are not: these are never written to.
    """
    modules = list(model.modules())
    attributes = [(vars(module), dict(vars(module))) for module in modules]
    tables = [(table, dict(table)) for _, own in attributes for table in own.values() if isinstance(table, dict)]
    configs = [(vars(config), dict(vars(config))) for config in _configs(modules)]
    learning = [(weight, weight.requires_grad, weight.grad) for weight in model.parameters()]

    def restore() -> None:
        for table, before in (*attributes, *tables, *configs):
            table.update(before)
            for name in table.keys() - before.keys():
                del table[name]
        for weight, needed, gradient in learning:
            weight.requires_grad_(needed)
            weight.grad = gradient

    try:
        yield
    except BaseException:
        try:
            restore()
        finally:
            restore()  # the first may be interrupted as well
        raise


def leaves_unchanged(work: Work) -> Work:
    """Make a method of a pruner leave its dense model unchanged by an exception."""

    @wraps(work)
    def kept(self: Any, *arguments: Any, **options: Any) -> Any:
        with unchanged(self.calibration.dense.model):
            return work(self, *arguments, **options)

    return cast("Work", kept)


def _configs(modules: list[nn.Module]) -> list[Any]:
    """List the configs of modules, and the parts that they consist of, each once."""
    found: dict[int, Any] = {}
    waiting = [vars(module)["config"] for module in modules if hasattr(vars(module).get("config"), "__dict__")]
    while waiting:
        config = waiting.pop()
        if id(config) not in found:
            found[id(config)] = config
            waiting += [part for part in vars(config).values() if hasattr(part, "to_dict")]
    return list(found.values())
