"""Find plug-ins, such as methods, recipes and architectures: one file in a folder each, or an outside entry point.

A plug-in module has a dictionary `PROVIDES` of public names. Nobody registers anything: the file is enough.
Other packages add theirs with entry points in the groups `trimformer.methods`, `trimformer.tasks`, ….
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal

from trimformer.errors import unknown_name

Folder = Literal["architectures", "methods", "recipes", "tasks", "costs", "commands"]


@cache
def provided(folder: Folder) -> dict[str, Any]:
    """Collect what a plug-in folder and outside entry points provide, sorted by public name.

    Where an outside plug-in has the name of one in the folder, the folder's is taken.
    """
    package = import_module(f"trimformer.{folder}")
    modules = [import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)]
    found = {name: thing for module in modules for name, thing in module.PROVIDES.items()}
    outside = {point.name: point.load() for point in entry_points(group=f"trimformer.{folder}")}
    return dict(sorted((outside | found).items()))


def names(folder: Folder) -> list[str]:
    """List the public names of all plug-ins of a folder, sorted."""
    return list(provided(folder))


def load(folder: Folder, name: str) -> Any:
    """Find the plug-in of that name.

    Raises:
        InvalidOption: no plug-in has this name; lists those that exist.
    """
    try:
        return provided(folder)[name]
    except (KeyError, TypeError):  # TypeError where it is a list or the like
        raise unknown_name(folder.removesuffix("s"), name, provided(folder)) from None


def presentation(of: Literal["results", "plans"] = "results") -> Any:
    """Import what shows, saves and reports results, or plans: it stands above those who make them."""
    return import_module(f"trimformer.report.{of}")


def descriptions(folder: Folder) -> dict[str, str]:
    """Describe every plug-in of a folder in one line: its `description`, or the first line of its module's text."""
    return {name: _describe(thing) for name, thing in provided(folder).items()}


def _describe(thing: Any) -> str:
    described = getattr(thing, "description", None) or import_module(thing.__module__).__doc__ or ""
    return str(described).strip().partition("\n")[0]
