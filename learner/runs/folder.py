"""A run's folder: its settings, its lines of steps and probes, its commits, its summary.

config.json    every setting that decides the weights; a run goes on only with the same ones
start.json     what it started from: random weights, a file, or another run
steps.jsonl    one line a training step, late in a long run one of 2, 4, ...      probes.jsonl   one line a probe
holdout.jsonl  one line a probe of the held-out pairs        start.safetensors   the start's backbone, for that probe
pairs.sqlite   the pairs in memory and the list of commits, see `buffer.store`
checkpoints/   the rest of each commit, see `learner.runs.checkpoint`                  export/        weights for timm
events/        the lines as TensorBoard reads them, with --tensorboard
album.npz      pictures as arrays               summary.json   the figures of the run       report.html
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from learner.config import LearnerConfig, to_plain
from learner.errors import Failed, SettingsError
from learner.runs.reading import Album, Line, read_lines
from learner.runs.settings import require_same
from stream.fsync import replace_file, sync_path
from stream.host.printing import is_utf8

EXPORT = "export"
"""The folder of a run with the weights for others."""
LINES = ("steps", "probes", "holdout")
"""The files of lines, without .jsonl."""
_DRAFT = ".config.json"
"""`stream.fsync.replace_file` writes it first: a kill or a full disk at the very start of a run leaves only this file."""


class RunDirectory:
    """Creates or reopens `path`.

    Raises SettingsError, before anything is written, if it holds something else or a run made with other settings.
    """

    def __init__(self, path: Path, config: LearnerConfig) -> None:
        self.path = path
        self.store = path / "pairs.sqlite"
        """The file of the pairs, a `buffer.store.Store`."""
        self.checkpoints = path / "checkpoints"
        self.export = path / EXPORT
        """The folder of the exported weights."""
        self.also: Callable[[str, Line], None] = lambda _name, _line: None
        """Called with the name and each line that was appended."""
        if not is_utf8(str(path)):  # safetensors opens no such name: its commits could not be read again
            raise SettingsError(f"--run-dir {str(path)!a} has bytes that are no text: choose another name")
        settings = path / "config.json"
        self.is_new = not settings.is_file()
        """Whether no process has begun this run before."""
        self.has_begun = not self.is_new
        """Set this once the source is open: a run that never got so far leaves nothing behind."""
        if not self.is_new:
            require_same(path, config)
        elif path.exists() and (not path.is_dir() or any(file.name != _DRAFT for file in path.iterdir())):
            raise SettingsError(f"--run-dir {path} is not an empty folder and holds no run: choose another one")
        else:
            _create(path, config)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other learners out inside the context; a killed one leaves no lock. Raises Failed if one is at work."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Failed(
                    f"--run-dir {self.path} is in use by another learner: stop that one, or choose another --run-dir"
                ) from error
            yield
        finally:
            os.close(descriptor)

    def discard_if_not_begun(self) -> None:
        """Remove a folder that this process has made, unless the run has begun. Call it only while the folder is locked."""
        if not self.has_begun:
            shutil.rmtree(self.path, ignore_errors=True)

    def require_new(self) -> None:
        """Raise SettingsError if the run has left anything that it writes only after its first commit."""
        files = [self.path / f"{name}.jsonl" for name in LINES]
        files += [self.path / name for name in ("album.npz", "summary.json")]
        written = [path for path in files if path.is_file() and path.stat().st_size]
        if self.export.is_dir():
            written += self.export.iterdir()
        if written:
            raise SettingsError(
                f"--run-dir {self.path} has {written[0].relative_to(self.path)} of a run, but no commit to go on from: "
                f"restore {self.store.name} and {self.checkpoints.name}/ from a copy, or choose another --run-dir"
            )

    def append(self, name: str, line: Line) -> None:
        """Add a line to `name`.jsonl. Raises OSError if the disk is full; then no part of the line stays."""
        data = f"{json.dumps(line)}\n".encode()
        with (self.path / f"{name}.jsonl").open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(data) < len(data):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
        self.also(name, line)

    def lines(self, name: str) -> list[Line]:
        """Return the lines of `name`.jsonl, without a last one that a crash has cut."""
        return read_lines(self.path / f"{name}.jsonl") or []

    def rewind(self, step: int) -> None:
        """Remove the lines written after `step`, and a torn last one: the run goes on from there."""
        for name in LINES:
            if name == "holdout" and not (self.path / "holdout.jsonl").is_file():
                continue  # nothing is held out
            kept = [line for line in self.lines(name) if line["step"] <= step]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            replace_file(self.path / f"{name}.jsonl", text.encode())

    def write_album(self, album: Album) -> None:
        """Replace the album."""
        draft = self.path / ".album.npz"
        np.savez(draft, **album)  # type: ignore[arg-type]
        draft.rename(self.path / "album.npz")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace the summary."""
        replace_file(self.path / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())


def name_of(run: Path) -> str:
    """Return the name of a run and of this machine, for people who read a rig's list of consumers; at most 45 characters."""
    words = (run.resolve().name, platform.node())
    cleaned = (re.sub(r"[^A-Za-z0-9._-]", "-", word).strip("._-")[:22] for word in words)
    return "-".join(word or "unnamed" for word in cleaned)


def _create(path: Path, config: LearnerConfig) -> None:
    # Not by msgspec.json: it writes an infinite half-life as null, which cannot be read back as a number.
    text = json.dumps(to_plain(config), indent=2)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        replace_file(path / "config.json", f"{text}\n".encode())
        for folder in (path, *(made.parent for made in missing)):
            sync_path(folder)
    except OSError as error:
        raise SettingsError(f"--run-dir {path} cannot be written ({error.strerror}): choose another one") from error
