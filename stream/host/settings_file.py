"""Reads settings from a TOML file (`--config FILE`) over the defaults in dataclasses.

Keys are the names of the fields, with a table for each nested dataclass. The values of the file become the defaults of the flags,
so that a flag wins.
"""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import os
import re
import sys
import tomllib
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from stream.errors import StreamError, reported_as
from stream.host.printing import printable

MAX_BYTES = 1 << 16
FLAG = "--config"
_FIELD = "config"
"""The field that makes the flag appear in --help. A file cannot name another file."""
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text in quotes",
    Path: "a path in quotes",
}
_HEADER = re.compile(r"\s*\[(?P<table>[A-Za-z0-9_. -]+)\]")
_KEY = re.compile(r"\s*(?P<key>[A-Za-z0-9_. -]+?)\s*=")

Settings = TypeVar("Settings")
Elsewhere = Callable[[tuple[str, ...]], Sequence[str]]
"""Returns, for the key of a setting that is not there, the values of the choice in front of it that have the setting."""


class SettingsFileError(StreamError):
    """A file of settings that cannot be used. The message names the file, the line if it is known, and what was expected."""


def config_of(words: Sequence[str]) -> Path | None:
    """Return the file that the arguments of a command name, or None. Raises SettingsFileError for a missing name."""
    found = None
    for word, following in pairwise([*words, ""]):
        if word == FLAG or word.startswith(f"{FLAG}="):
            found = word.partition("=")[2] or ("" if "=" in word else following)
            if not found or found.startswith("--"):
                raise SettingsFileError(f"{FLAG} needs the path of a TOML file")
    return None if found is None else Path(found)


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """The content of a file, not yet compared with any settings."""

    path: Path
    text: str
    table: dict[str, Any]
    elsewhere: Elsewhere = lambda _key: ()

    @classmethod
    def read(cls, path: Path, old_names: Mapping[str, str] | None = None, elsewhere: Elsewhere = elsewhere) -> Self:
        """Read a file, and translate old names of settings into the present ones.

        Raises SettingsFileError for a file that cannot be read, is larger than MAX_BYTES, or is not TOML.
        """
        with reported_as(SettingsFileError, f"{path} cannot be read"), path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise SettingsFileError(f"{path} is larger than {MAX_BYTES} bytes: no file of settings")
        try:
            text = data.removeprefix(codecs.BOM_UTF8).decode()  # editors of Windows write the mark first
            return cls(path, text, _translated(tomllib.loads(text), (), old_names or {}), elsewhere)
        except UnicodeDecodeError as error:
            raise SettingsFileError(f"{path} is not UTF-8 text (at byte {error.start})") from error
        except (ValueError, RecursionError) as error:  # errors of tomllib name line and column
            raise SettingsFileError(f"{path} is not TOML: {error}") from error

    def words(self, names: Collection[str]) -> dict[str, str]:
        """Return the values of those of these keys that are there; of a table, its key `name`. Names are dotted."""
        found = {}
        for name in names:
            value: Any = self.table
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            value = value.get("name") if isinstance(value, dict) else value
            if value is not None:
                found[name] = str(value)
        return found

    def without(self, names: Collection[str]) -> Self:
        """Return the file without these keys; of a table, without its key `name`."""
        kept = {key: value for key, value in self.table.items() if key not in names or isinstance(value, dict)}
        tables = {key: {k: v for k, v in kept[key].items() if k != "name"} for key in names if key in kept}
        return replace(self, table=kept | tables)

    def over(self, default: Settings, *, inline: Collection[str] = ()) -> Settings:
        """Return the settings, a tree of dataclasses, with the values of the file instead of the defaults.

        inline: fields whose own fields stand in the same table. Raises SettingsFileError for an
        unknown key or a value of another type, and the error of a dataclass that refuses a value.
        """
        settings: Settings = self._merged(default, self.table, (), inline)
        return settings

    def _merged(self, default: Any, table: Any, within: tuple[str, ...], inline: Collection[str]) -> Any:
        if not isinstance(table, dict):
            raise self._error(within, f"{'.'.join(within)} must be a table [{'.'.join(within)}], got {table!r}")
        self._check_keys(table, list(_keys(default, inline)), within)
        return self._replaced(default, table, within, inline)

    def _replaced(self, default: Any, table: dict[str, Any], within: tuple[str, ...], inline: Collection[str]) -> Any:
        types_of, changed = get_type_hints(type(default)), {}
        for field in dataclasses.fields(default):
            name, now = field.name, getattr(default, field.name)
            if name in inline:
                changed[name] = self._replaced(now, table, within, inline)
            elif name in table and dataclasses.is_dataclass(now):
                changed[name] = self._merged(now, table[name], (*within, name), inline)
            elif name in table:
                changed[name] = self._value(table[name], types_of[name], (*within, name))
        return dataclasses.replace(default, **changed)

    def _check_keys(self, table: dict[str, Any], known: list[str], within: tuple[str, ...]) -> None:
        for name in table:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                some = ", ".join(known[:8]) + ", ..." * (len(known) > 8)
                close = f"did you mean {near[0]}?" if near else f"{'' if within else '--help lists them; '}{some}"
                hint = whose(within, self.elsewhere((*within, name)), f'name = "{{}}" in [{".".join(within)}]') or close
                raise self._error((*within, name), f"there is no setting {'.'.join((*within, name))!r}: {hint}")

    def _value(self, value: Any, kind: Any, key: tuple[str, ...]) -> Any:
        try:
            return msgspec.convert(value, kind, dec_hook=_convert_path)
        except msgspec.ValidationError as error:
            raise self._error(key, f"{'.'.join(key)} must be {_expected(kind)}, got {value!r}") from error

    def _error(self, key: tuple[str, ...], text: str) -> SettingsFileError:
        line = next((f":{number}" for number, found in _lines(self.text) if found[: len(key)] == key), "")
        return SettingsFileError(f"{self.path}{line}: {text}"[:500])


def present_name(name: str, old_names: Mapping[str, str]) -> str:
    """Return the present name of a setting, and report an old name on the standard error.

    name: dotted, with underscores. old_names: present names by old ones; either whole dotted names or last parts.
    """
    within, dot, last = name.rpartition(".")
    now = old_names.get(name, f"{within}{dot}{old_names.get(last, last)}")
    if now != name and os.environ.get("RANK", "0") == "0":  # of the processes of torchrun, the first one warns
        sys.stderr.write(f"the setting {printable(name)} is called {printable(now)} now\n")
    return now


def whose(table: Sequence[str], choices: Sequence[str], choose: str) -> str:
    """Return which choices have a setting, and what to do; "" if none has it. choose: how to choose one, {} for its name."""
    if not choices:
        return ""
    few = ", ".join(choices[:4]) + ", ..." * (len(choices) > 4)
    return f"it is a setting of {'.'.join(table)} {few}: choose one with {choose.format(choices[0])}, or leave it out"


def _translated(table: dict[str, Any], within: tuple[str, ...], old_names: Mapping[str, str]) -> dict[str, Any]:
    translated = {}
    for key, value in table.items():
        path = (*within, key)
        now = present_name(".".join(path), old_names).rpartition(".")[2]
        translated[now] = _translated(value, path, old_names) if isinstance(value, dict) else value
    return translated


def _keys(default: Any, inline: Collection[str]) -> Iterator[str]:
    for field in dataclasses.fields(default):
        if field.name in inline:
            yield from _keys(getattr(default, field.name), inline)
        elif field.name != _FIELD:
            yield field.name


def _convert_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError


def _expected(kind: Any) -> str:
    """Describe, for an error message, the values that a type allows."""
    parts = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_expected(part) for part in parts if part is not type(None))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(part) for part in parts)
    if get_origin(kind) is tuple:
        return f"a list, each {_expected(parts[0])}" if parts[-1] is ... else f"a list of {len(parts)}"
    return _WORDS.get(kind, str(kind))


def _lines(text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the line number and the full key of each line that looks like a key or the head of a table."""
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if head := _HEADER.match(line):
            table = _split(head["table"])
            yield number, table
        elif key := _KEY.match(line):
            yield number, (*table, *_split(key["key"]))


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in dotted.split("."))
