"""Imports modules whose heavy packages are replaced by stand-ins, so that help and wrong settings need not wait for them.

Torch alone takes seconds to load, and the settings of an objective stand in the file of its networks. A stand-in can be inherited
from, called and asked for any attribute; it computes nothing. Sphinx mocks imports for the same reason. What was imported with
stand-ins is forgotten afterwards, so that the next import is the real one.
"""

from __future__ import annotations

import sys
from abc import ABCMeta
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@contextmanager
def standing_in(heavy: Sequence[str], ours: Sequence[str]) -> Iterator[bool]:
    """Inside the context, imports of the `heavy` packages give stand-ins; yield False if one of them is loaded already.

    ours: packages whose modules, if they are imported inside, are forgotten at the end, as is what holds a stand-in itself.
    """
    if not heavy or any(sys.modules.get(name) is not None for name in heavy):
        yield False
        return
    before, finder = dict(sys.modules), _Finder(heavy)
    for name in heavy:
        sys.modules.pop(name, None)  # None stands there where an import is forbidden
    sys.meta_path.insert(0, finder)
    try:
        yield True
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if name not in before and (name.partition(".")[0] in (*ours, *heavy) or _holds_stand_in(module)):
                del sys.modules[name]
        sys.modules.update({name: before[name] for name in heavy if name in before})


def is_stand_in(module: ModuleType) -> bool:
    """Return whether a module stands in for a heavy package."""
    return isinstance(module, _Module)


def _holds_stand_in(module: ModuleType) -> bool:
    return any(isinstance(value, _Kind | _Module) for value in list(vars(module).values()))


class _Kind(ABCMeta):
    """The class of stand-ins, which are classes themselves, so that they can be inherited from."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Kind(name, (_Anything,), {})


class _Anything(metaclass=_Kind):
    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, first: Any = None, *_: Any, **__: Any) -> Any:
        return first  # as a decorator does

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Kind(name, (_Anything,), {})


class _Finder(MetaPathFinder, Loader):
    def __init__(self, heavy: Sequence[str]) -> None:
        self._heavy = heavy

    def find_spec(self, fullname: str, _path: Any, _target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in self._heavy else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty."""
