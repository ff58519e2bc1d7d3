"""Commands that our messages tell a person to type: with the path of the program, so that they work when they are pasted."""

from __future__ import annotations

import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SCRIPT = "babyagent-"
"""How the names of our console scripts begin."""
CHECKOUT = ".venv/bin/python"
"""Python of a checkout, as the README installs and types it."""


def versions() -> str:
    """Return what `--version` prints: our version, and that of Python."""
    try:
        ours = version("babyagent")
    except PackageNotFoundError:  # a checkout on PYTHONPATH
        ours = "(not installed)"
    return f"babyagent {ours}, Python {'.'.join(map(str, sys.version_info[:3]))}"


def here(package: str, *words: str, keys: Path | None = None) -> str:
    """Return the command line of a package of ours on this machine, begun as this process was begun.

    words: its arguments, which are quoted for a shell. keys: the folder of keys that is in use, to which `--keys` leads.
    """
    folder = () if keys is None else ("--keys", str(keys))
    return f"{program(package)} {shlex.join((*words, *folder))}".rstrip()


def there(package: str, *words: str) -> str:
    """Return the command line for another machine: of a checkout as the README installs it, or of the console script."""
    started = Path(sys.argv[0]).name.startswith(SCRIPT)
    return f"{SCRIPT}{package}" * started + f"{CHECKOUT} -m {package}" * (not started) + f" {shlex.join(words)}"


def program(package: str) -> str:
    """Return how a package of ours is started on this machine: by its console script or this Python, with the shortest path."""
    script = Path(sys.argv[0])
    if script.name.startswith(SCRIPT):
        return _shortest(script.with_name(f"{SCRIPT}{package}").absolute())
    return f"{_shortest(Path(sys.executable))} -m {package}"


def _shortest(path: Path) -> str:
    """Return what a shell in this folder takes for the program at an absolute path."""
    if shutil.which(path.name) == str(path):
        return path.name
    folder = Path.cwd()
    return shlex.quote(str(path.relative_to(folder) if path.is_relative_to(folder) else path))
