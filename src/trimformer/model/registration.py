"""Let `from_pretrained` read pruned checkpoints, without importing torch or transformers for it.

`modeling_trimformer` puts itself into transformers' registry of quantizers, for which it needs transformers. Where
that is not loaded yet, this waits for `transformers.modeling_utils`, which every `from_pretrained` of a model goes
through: Python asks the finders in `sys.meta_path` for each module that it imports, and the one here has the module
loaded as it always is, and registers right after.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

AWAITED = "transformers.modeling_utils"
REGISTERS_ITSELF = "trimformer.model.modeling_trimformer"


def register() -> None:
    """Register the loader of pruned checkpoints: now, or as soon as transformers can load models."""
    if AWAITED in sys.modules:
        import_module(REGISTERS_ITSELF)
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


class _Waiting(MetaPathFinder):
    """Finder that gives only the awaited module, as the other finders do; it goes away when that is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the awaited module as others do, to be followed by the registration; None for all other modules."""
        if fullname != AWAITED:
            return None
        sys.meta_path.remove(self)
        try:
            found = find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if found is not None and found.loader is not None:
            found.loader = _ThenRegister(self, found.loader)
        return found


class _ThenRegister(Loader):
    """Loader that loads a module by its own loader, then registers; if that fails, a later import tries again."""

    def __init__(self, waiting: _Waiting, own: Loader) -> None:
        self.waiting, self.own = waiting, own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own loader back, run it, and register."""
        module.__loader__ = self.own
        if module.__spec__ is not None:
            module.__spec__.loader = self.own
        self.own.exec_module(module)
        if self.waiting in sys.meta_path:
            sys.meta_path.remove(self.waiting)
        import_module(REGISTERS_ITSELF)
