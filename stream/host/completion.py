"""Writes the script by which a shell completes our commands, flags and choices (`--print-completion bash|zsh`).

The script is a table of words, so that the Tab key starts no Python and loads no torch.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from stream.errors import StreamError
from stream.host.flags import flags_of

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


def script(shell: str, program: str, commands: Mapping[str, Options], package: str = "") -> str:
    """Return the completion script of a program for `shell`, "bash" or "zsh".

    commands: for each subcommand its flags and their choices; the key "" stands for flags that need no subcommand.
    package: as which `python -m` and torchrun start it, which complete it then too.
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
{_of_module(name, package) if package else ""}"""


def options(settings: Any) -> dict[str, Sequence[str]]:
    """Return the flags of a dataclass of settings, or of an instance of it, named as tyro names them."""
    found: dict[str, Sequence[str]] = {}
    for flag in flags_of(settings):
        found[f"--{flag.name}"] = _choices(flag.hint)
        if flag.hint is bool:
            found[f"--no-{flag.name}"] = ()
    return {**found, "--help": ()}


def _of_module(name: str, package: str) -> str:
    """Return what completes `python -m PACKAGE` as the program itself; our programs all define the same function."""
    return f"""_babyagent_of_{package}() {{ {name}; }}
_babyagent_module() {{
  local at
  for ((at = 1; at < COMP_CWORD - 1; at++)); do
    if [ "${{COMP_WORDS[at]}}" = -m ] && declare -F "_babyagent_of_${{COMP_WORDS[at+1]}}" >/dev/null; then
      local of="_babyagent_of_${{COMP_WORDS[at+1]}}"
      COMP_WORDS=("${{COMP_WORDS[@]:at+1}}"); COMP_CWORD=$((COMP_CWORD - at - 1))
      "$of"; return
    fi
  done
}}
complete -o default -F _babyagent_module python python3 torchrun
"""


def _cases(commands: Mapping[str, Options]) -> str:
    """Return the branches of the script: patterns (subcommand, previous word, beginning of the word) with the words that fit.

    Where no pattern fits, the shell offers files.
    """
    lines = []
    for command, flags in commands.items():
        lines += [f'"{command} {flag} "*) words="{" ".join(words)}" ;;' for flag, words in flags.items() if words]
        lines.append(f'"{command} "*" -"*) words="{" ".join(flag for flag in flags if flag.startswith("-"))}" ;;')
    return "\n".join(f"      {line}" for line in lines)


def _choices(hint: Any) -> tuple[str, ...]:
    if get_origin(hint) is Literal:
        return tuple(str(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(choice for part in get_args(hint) for choice in _choices(part))
    return ()
