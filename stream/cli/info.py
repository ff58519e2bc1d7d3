"""The command `python -m stream info`: describes recordings, and checks whether they are complete."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro

from stream.errors import StreamError
from stream.host.command import Command
from stream.host.printing import printable
from stream.host.program import ExitCode, Result, Stop
from stream.host.progress import Progress, format_bytes
from stream.host.typed import here
from stream.pair import EncodedPair
from stream.pairing import EyeName
from stream.ranges import Ranges
from stream.recording.foreign import EyeTopics
from stream.recording.reader import RecordingReader, open_recording
from stream.recording.receipts import Receipts
from stream.signals.signal import MAX_SIGNALS

DESCRIPTION = """Describe recordings. Every byte of them is read and checked. Of several files it also says what they hold
together. Lost pairs are those of which the recorder learned that it will never have them.

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
    lost: int = 0
    """Pairs that the recorder counted as lost while it wrote this file, and that are not in it."""
    lost_ranges: list[tuple[int, int]] = field(default_factory=list)
    """Their numbers, as ranges [a, b)."""
    start_ns: int = 0
    """Capture time of the earliest left image."""
    end_ns: int = 0
    seconds: float = 0.0
    """Seconds between start_ns and end_ns."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Pairs by codec and size."""
    signal_rows: dict[str, int] = field(default_factory=dict)
    """Rows of each of its first MAX_SIGNALS signals."""


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
    lost: int = 0
    cut: bool = False
    skipped: int = 0
    skipped_bytes: int = 0
    unreadable: int = 0
    unpaired: dict[EyeName, int] = field(default_factory=dict)
    """Images of another tool's recording that have no partner, by eye."""
    problem: str = ""
    """Why it gives no pair, with a remedy."""
    epochs: list[EpochInfo] = field(default_factory=list)


def run(settings: InfoSettings, stop: Stop) -> Result:
    """Read recordings to their ends, and describe them."""
    if not settings.files:
        raise StreamError(f"info needs a recording: {here('stream', 'info')} FILE")
    infos, texts, together = [], [], _Together()
    with Progress() as progress:
        for path in settings.files:
            with open_recording(path, settings.topics) as recording:
                info = read_info(recording, progress, stop, together)
                infos.append(asdict(info))
                texts.append(_describe(info, recording))
    if len(settings.files) > 1:
        texts.append(together.describe())
    failed = any(info["problem"] for info in infos)
    return Result("\n".join(texts), infos, ExitCode.FAILED if failed else ExitCode.DONE)


Epochs = dict[tuple[str, str], tuple[EpochInfo, Ranges]]
"""The epochs of a file by device and name, each with the numbers of its pairs."""


class _Together:
    """What several files of one recording hold together: a pair that one lacks may be in another."""

    def __init__(self) -> None:
        self.pairs: dict[str, dict[str, Ranges]] = {}
        self.receipts = Receipts()

    def add(self, receipts: Receipts, epochs: Epochs) -> None:
        """Add a file."""
        for receipt in receipts.all():
            self.receipts.add(receipt)
        for (device, epoch), (_, seqs) in epochs.items():
            for first, last in seqs:
                self.pairs.setdefault(device, {}).setdefault(epoch, Ranges()).add(first, last)

    def describe(self) -> str:
        """Return the lines for a person."""
        all_lost = self.receipts.lost(self.pairs)
        count = sum(seqs.count for epochs in self.pairs.values() for seqs in epochs.values())
        lines = [f"together: {count} different pairs, {sum(lost.count for lost in all_lost.values())} lost"]
        keys = [(device, epoch) for device, epochs in self.pairs.items() for epoch in epochs]
        for device, epoch in dict.fromkeys([*keys, *all_lost]):
            seqs, lost = self.pairs.get(device, {}).get(epoch, Ranges()), all_lost.get((device, epoch), Ranges())
            known = Ranges([*seqs, *lost])
            first = next(iter(known))[0]
            missing = known.end - first - known.count
            lines.append(
                f"  {device}/{epoch[:8]}: {seqs.count} pairs from {first} on, {lost.count} lost, {missing} missing"
            )
        return "\n".join(lines)


def read_info(
    recording: RecordingReader, progress: Progress, stop: Stop, together: _Together | None = None
) -> FileInfo:
    """Read a recording to its end, and add it to the others. Raises InterruptedError on `stop`."""
    info = FileInfo(file=recording.name, file_bytes=recording.messages.size)
    epochs: Epochs = {}
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
    _count_lost(recording.receipts, epochs)
    info.epochs += [epoch for epoch, _ in epochs.values()]
    info.lost = sum(epoch.lost for epoch in info.epochs)
    if together is not None:
        together.add(recording.receipts, epochs)
    file = recording.messages
    info.cut, info.skipped, info.skipped_bytes = file.cut, file.skipped, file.skipped_bytes
    info.unreadable, info.problem = recording.unreadable, recording.why_empty()
    info.unpaired = dict(recording.unpaired.counts)
    info.whole = not recording.damage() and not info.problem
    return info


def _count_lost(receipts: Receipts, epochs: Epochs) -> None:
    recorded: dict[str, dict[str, Ranges]] = {}
    for (device, epoch), (_, seqs) in epochs.items():
        recorded.setdefault(device, {})[epoch] = seqs
    for key, lost in receipts.lost(recorded).items():
        info, _ = epochs.setdefault(key, (EpochInfo(*key), Ranges()))
        info.lost, info.lost_ranges = lost.count, list(lost)


def _count(pair: EncodedPair, epoch: EpochInfo, seqs: Ranges) -> None:
    header = pair.header
    seqs.add(header.seq, header.seq + 1)
    epoch.pairs += 1
    epoch.start_ns, epoch.end_ns = min(epoch.start_ns, header.left_ns), max(epoch.end_ns, header.left_ns)
    kind = f"{header.codec} {header.width}x{header.height} {'colour' if header.channels == 3 else 'grey'}"
    epoch.kinds[kind] = epoch.kinds.get(kind, 0) + 1
    for name, signal in pair.telemetry.signals.items():
        if name in epoch.signal_rows or len(epoch.signal_rows) < MAX_SIGNALS:
            epoch.signal_rows[name] = epoch.signal_rows.get(name, 0) + len(signal)


def _describe(info: FileInfo, recording: RecordingReader) -> str:
    """Return the lines for a person."""
    image_bytes, file_bytes = format_bytes(info.image_bytes), format_bytes(info.file_bytes)
    lines = [f"{printable(info.file)}: {info.pairs} pairs, {image_bytes} of images in {file_bytes}"]
    for epoch in info.epochs:
        name, lost = f"  {epoch.device}/{epoch.epoch[:8]}", f"{epoch.lost} lost"
        if not epoch.pairs:
            lines.append(f"{name}: no pair, {lost}")
            continue
        start = datetime.fromtimestamp(epoch.start_ns // 10**9, UTC)
        lines.append(
            f"{name}: pairs {epoch.first_seq} to {epoch.last_seq}, {epoch.missing} missing, {lost}, "
            f"{epoch.seconds:.1f} s from {start:%Y-%m-%d %H:%M:%S} UTC, {', '.join(epoch.kinds)}"
        )
        if epoch.signal_rows:
            lines.append(f"    signals: {', '.join(f'{name} {rows} rows' for name, rows in epoch.signal_rows.items())}")
    if without := recording.unpaired.describe():
        lines.append(f"  images without a partner in time: {without}")
    if info.problem:
        lines.append(f"  no pairs: {printable(info.problem)}")
    elif damage := recording.damage():
        lines.append(f"  not whole: {printable(', '.join(damage))}{_hint(info)}")
    else:
        lines.append("  whole")
    return "\n".join(lines)


def _hint(info: FileInfo) -> str:
    """Return the remedy for damage, "" where it would write nothing."""
    damaged = Path(info.file)
    command = here("stream", "recover", info.file, str(damaged.with_name(f"{damaged.stem}-whole.mcap")))
    return f"; `{command}` writes a clean one" if info.pairs else ""


COMMAND = Command(run=run, settings=InfoSettings, description=DESCRIPTION)
