"""The flags of a dataclass of settings, named as tyro names them, and dataclasses that show them, or some of them, in help."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. name: without dashes in front, dotted. owner: the class that has the field. default: None for a class."""

    name: str
    field: str
    owner: type
    hint: Any
    default: Any


def flags_of(settings: Any, prefix: str = "") -> Iterator[Flag]:
    """Yield the flags of a dataclass of settings, or of an instance of it, without positional arguments."""
    import tyro  # every command imports this module, and one of them must start without tyro

    kind = settings if isinstance(settings, type) else type(settings)
    for field, hint, marks in _fields(kind):
        if tyro.conf.Positional in marks:
            continue
        renamed = [mark.name for mark in marks if getattr(mark, "name", None) is not None]
        name = f"{prefix}{(renamed or [field.name])[0]}".replace("_", "-")
        now = getattr(settings, field.name, None)
        inner = now if dataclasses.is_dataclass(now) else hint
        if dataclasses.is_dataclass(inner):
            yield from flags_of(inner, f"{name}." if name else "")
        else:
            yield Flag(name, field.name, kind, hint, now)


def _fields(kind: type) -> Iterator[tuple[dataclasses.Field[Any], Any, list[Any]]]:
    """Yield each field of a dataclass, with its type and what the type is annotated with."""
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, marks = hints[field.name], list[Any]()
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
        yield field, hint, marks


def help_for(settings: type, values: Any = None) -> type:
    """Return a dataclass with the flags of a dataclass of settings; only for help.

    tyro would break the lines of help where those of a text end in its file. values: an instance, whose values are shown in place
    of the defaults.
    """
    import tyro

    fields = []
    for field, hint, marks in _fields(settings):
        now = getattr(values, field.name) if dataclasses.is_dataclass(values) else _default(field)
        if dataclasses.is_dataclass(now):
            hint = now = help_for(cast(type, type(now)), now)
        mark = tyro.conf.arg(help=_text(Flag(field.name, field.name, settings, hint, now)) or None)
        shown: Any = dataclasses.field()
        if now is not dataclasses.MISSING:
            shown = dataclasses.field(default_factory=now if now is hint else lambda now=now: now)
        fields.append((field.name, Annotated[(hint, *marks, mark)], shown))
    return dataclasses.make_dataclass(settings.__name__, fields, namespace={"__doc__": settings.__doc__}, kw_only=True)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def some_of(settings: Any, shown: Callable[[str], bool]) -> type:
    """Return a flat dataclass of those flags of settings that `shown` chooses, with their texts and present values, for help."""
    import tyro

    fields = []
    for flag in flags_of(settings):
        if shown(flag.name):
            mark = tyro.conf.arg(name=flag.name, help=_text(flag))
            value = dataclasses.field(default_factory=lambda flag=flag: flag.default)  # type: ignore[misc]
            fields.append((flag.name.replace("-", "_").replace(".", "__"), Annotated[flag.hint, mark], value))
    return dataclasses.make_dataclass("Some", fields, kw_only=True)


def _text(flag: Flag) -> str:
    """Return the text below a field of a dataclass, which explains it."""
    for owner in flag.owner.__mro__:
        try:
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        except (OSError, TypeError, SyntaxError):  # a class without a text, as that of a sum
            continue
        assert isinstance(body, ast.ClassDef)
        for pair in pairwise(body.body):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=flag.field)), ast.Expr(value=ast.Constant(value=str(text))):
                    return " ".join(text.split())
    return ""
