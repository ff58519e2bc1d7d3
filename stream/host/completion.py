"""Writes the script by which a shell completes our commands, flags and choices (`--print-completion bash|zsh`).

The script is a table of words, so that the Tab key starts no Python and loads no torch.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from stream.errors import StreamError

FLAG = "--print-completion"
SHELLS = ("bash", "zsh")

Options = Mapping[str, Sequence[str]]
"""For each flag the words that may follow it. An empty list means that a file, a number or nothing follows."""


def shell_of(words: Sequence[str]) -> str | None:
    """Return the shell for which the arguments request a completion script, or None. Raises StreamError for an unknown shell."""
    if not words or words[0].partition("=")[0] != FLAG:
        return None
    given = words[0].partition("=")[2] or (words[1] if len(words) > 1 else "")
    if given not in SHELLS:
        raise StreamError(f"{FLAG} needs one of {', '.join(SHELLS)}, got {given!r}")
    return given


def script(shell: str, program: str, commands: Mapping[str, Options]) -> str:
    """Return the completion script of a program for `shell`, "bash" or "zsh".

    commands: for each subcommand its flags and their choices; the key "" stands for flags that need no subcommand.
    """
    name = f"_{program.replace('-', '_')}"
    subcommands = " ".join(command for command in commands if command)
    start = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n" if shell == "zsh" else ""
    return f"""{start}{name}() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" command="" words=""
  case " {subcommands} " in *" ${{COMP_WORDS[1]}} "*) command="${{COMP_WORDS[1]}}" ;; esac
  if [ "$COMP_CWORD" = 1 ]; then
    words="{" ".join([subcommands, *commands.get("", {})]).strip()}"
  else
    case "$command $before $current" in
{_cases(commands)}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F {name} {program}
"""


def options(settings: Any) -> dict[str, Sequence[str]]:
    """Return the flags of a dataclass of settings, or of an instance of it, named as tyro names them."""
    return {**dict(_options(settings, "")), "--help": ()}


def _cases(commands: Mapping[str, Options]) -> str:
    """Return the branches of the script: patterns (subcommand, previous word, beginning of the word) with the words that fit.

    Where no pattern fits, the shell offers files.
    """
    lines = []
    for command, flags in commands.items():
        lines += [f'"{command} {flag} "*) words="{" ".join(words)}" ;;' for flag, words in flags.items() if words]
        lines.append(f'"{command} "*" -"*) words="{" ".join(flag for flag in flags if flag.startswith("-"))}" ;;')
    return "\n".join(f"      {line}" for line in lines)


def _options(settings: Any, prefix: str) -> Iterator[tuple[str, Sequence[str]]]:
    import tyro  # every command imports this module, and one of them must start without tyro

    kind = settings if isinstance(settings, type) else type(settings)
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, marks = hints[field.name], list[Any]()
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
        if tyro.conf.Positional in marks:
            continue
        renamed = [mark.name for mark in marks if getattr(mark, "name", None) is not None]
        name = f"{prefix}{(renamed or [field.name])[0]}".replace("_", "-")
        now = getattr(settings, field.name, None)
        inner = now if dataclasses.is_dataclass(now) else hint
        if dataclasses.is_dataclass(inner):
            yield from _options(inner, f"{name}." if name else "")
        else:
            yield f"--{name}", _choices(hint)
            if hint is bool:
                yield f"--no-{name}", ()


def _choices(hint: Any) -> tuple[str, ...]:
    if get_origin(hint) is Literal:
        return tuple(str(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(choice for part in get_args(hint) for choice in _choices(part))
    return ()
