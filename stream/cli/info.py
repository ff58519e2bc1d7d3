"""The command `python -m stream info`: describes recordings, and checks whether they are complete."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro

from stream.errors import StreamError
from stream.host.command import Command
from stream.host.program import Result, Stop
from stream.host.progress import Progress, format_bytes
from stream.pair import EncodedPair
from stream.ranges import Ranges
from stream.recording.reader import EyeTopics, RecordingReader, open_recording

DESCRIPTION = """Describe recordings. Every byte of them is read and checked.

  python -m stream info walk.mcap walk-2.mcap
  python -m stream info walk.mcap --json"""


@dataclass(frozen=True, kw_only=True)
class InfoSettings:
    """Describe recordings."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Recordings."""
    topics: Annotated[EyeTopics, tyro.conf.arg(name="")] = field(default_factory=EyeTopics)
    json: bool = False
    """Print one JSON list, an object for each file."""


@dataclass(slots=True)
class EpochInfo:
    """The pairs of one epoch of a rig."""

    device: str
    epoch: str
    pairs: int = 0
    missing: int = 0
    """Numbers between the first and the last pair that are missing."""
    first_seq: int = 0
    last_seq: int = 0
    start_ns: int = 0
    """Capture time of the earliest left image."""
    end_ns: int = 0
    seconds: float = 0.0
    """Seconds between start_ns and end_ns."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Pairs by codec and size."""


@dataclass(slots=True)
class FileInfo:
    """One recording."""

    file: str
    whole: bool = True
    """Whether the end of the file is there and nothing in it is damaged."""
    file_bytes: int = 0
    pairs: int = 0
    image_bytes: int = 0
    """Bytes of the encoded images of its pairs."""
    cut: bool = False
    skipped: int = 0
    skipped_bytes: int = 0
    unreadable: int = 0
    unpaired: int = 0
    epochs: list[EpochInfo] = field(default_factory=list)


def run(settings: InfoSettings, stop: Stop) -> Result:
    """Read recordings to their ends, and describe them."""
    if not settings.files:
        raise StreamError("info needs a recording: python -m stream info FILE")
    infos, texts = [], []
    with Progress() as progress:
        for path in settings.files:
            with open_recording(path, settings.topics) as recording:
                info = read_info(recording, progress, stop)
                infos.append(asdict(info))
                texts.append(_describe(info, recording.damage()))
    return Result("\n".join(texts), infos)


def read_info(recording: RecordingReader, progress: Progress, stop: Stop) -> FileInfo:
    """Read a recording to its end. Raises InterruptedError on `stop`."""
    info = FileInfo(file=recording.name, file_bytes=recording.mcap.size)
    epochs: dict[tuple[str, str], tuple[EpochInfo, Ranges]] = {}
    for pair in recording:
        if stop.is_set():
            raise InterruptedError("interrupted")
        key = (pair.header.device, pair.header.epoch)
        if key not in epochs:
            epochs[key] = EpochInfo(*key, start_ns=pair.header.left_ns), Ranges()
        _count(pair, *epochs[key])
        info.pairs += 1
        info.image_bytes += len(pair.left) + len(pair.right)
        progress.update(lambda: f"{info.file}: {info.pairs} pairs")
    for epoch, seqs in epochs.values():
        epoch.first_seq, epoch.last_seq = next(iter(seqs))[0], seqs.end - 1
        epoch.missing = epoch.last_seq + 1 - epoch.first_seq - seqs.count
        epoch.seconds = (epoch.end_ns - epoch.start_ns) / 1e9
        info.epochs.append(epoch)
    mcap = recording.mcap
    info.cut, info.skipped, info.skipped_bytes = mcap.cut, mcap.skipped, mcap.skipped_bytes
    info.unreadable, info.unpaired = recording.unreadable, recording.unpaired
    info.whole = not recording.damage()
    return info


def _count(pair: EncodedPair, epoch: EpochInfo, seqs: Ranges) -> None:
    header = pair.header
    seqs.add(header.seq, header.seq + 1)
    epoch.pairs += 1
    epoch.start_ns, epoch.end_ns = min(epoch.start_ns, header.left_ns), max(epoch.end_ns, header.left_ns)
    kind = f"{header.codec} {header.width}x{header.height} {'colour' if header.channels == 3 else 'grey'}"
    epoch.kinds[kind] = epoch.kinds.get(kind, 0) + 1


def _describe(info: FileInfo, damage: list[str]) -> str:
    """Return the lines for a person."""
    image_bytes, file_bytes = format_bytes(info.image_bytes), format_bytes(info.file_bytes)
    lines = [f"{info.file}: {info.pairs} pairs, {image_bytes} of images in {file_bytes}"]
    for epoch in info.epochs:
        start = datetime.fromtimestamp(epoch.start_ns // 10**9, UTC)
        lines.append(
            f"  {epoch.device}/{epoch.epoch[:8]}: pairs {epoch.first_seq} to {epoch.last_seq}, {epoch.missing} missing, "
            f"{epoch.seconds:.1f} s from {start:%Y-%m-%d %H:%M:%S} UTC, {', '.join(epoch.kinds)}"
        )
    hint = "`python -m stream recover` writes a clean one"
    lines.append(f"  not whole: {', '.join(damage)}; {hint}" if damage else "  whole")
    return "\n".join(lines)


COMMAND = Command(run=run, settings=InfoSettings, description=DESCRIPTION)
