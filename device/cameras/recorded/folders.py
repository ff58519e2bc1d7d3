"""Two folders of images: pairs by the times in their names, else by equal names, never by position."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from device.camera import DEFAULTS, BadShot, CameraError, CameraSettings, Shot
from device.cameras.recorded import names
from device.cameras.recorded.camera import FOLDER_FPS, RecordedCamera
from device.cameras.recorded.pixels import deep_image, read_eye
from device.cameras.recorded.roots import Eye, find_root
from stream.calibration.file import find_calibration, read_calibration
from stream.calibration.stereo import CalibrationError
from stream.pairing import EyeName, Pairing, Unpaired, interval_ns
from stream.recording.levels import AHEAD, Levels, Sample

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Named:
    """An image file; `size` is that of its name, because it is not read before its turn."""

    captured_ns: int
    name: str
    size: int = 0


def open_folders(
    left: Path | str, right: Path | str | None = None, settings: CameraSettings = DEFAULTS
) -> RecordedCamera:
    """Open two folders, or one: the root of a data set that has both (`find_root`), or the images of one camera, where each
    image is both eyes of a pair. JPEG files are forwarded untouched.

    Names that are times are paired by time, others by equal names. Images without a partner are logged and left out.
    Raises CameraError if a folder is missing or empty, or if nothing in it belongs together.
    """
    eyes = _eyes_of(Path(left)) if right is None else (Eye(Path(left)), Eye(Path(right)))
    if right is None:
        _tell_calibration(Path(left), settings)
    name = f"dir:{left}" if right is None else f"dir:{left},{right}"
    lists = [_image_names(eye.folder) for eye in eyes]
    times = [_times(eye, listed) for eye, listed in zip(eyes, lists, strict=True)]
    lefts, rights = times
    unpaired = Unpaired()
    if lefts is not None and rights is not None:
        late_ns = round(settings.right_late_ms * 1e6)
        rights = {file: time_ns + late_ns for file, time_ns in rights.items()}
        pairs = _by_time(lefts, rights, settings.tolerance_ns, unpaired)
        step_ns = interval_ns(sorted(lefts.values()))
    else:
        matched = names.matched(*lists)
        step_ns = round(1e9 / (settings.fps or FOLDER_FPS))
        pairs = [(_Named(at * step_ns, one), _Named(at * step_ns, other)) for at, (one, other) in enumerate(matched)]
        _note_rest(lists, matched, unpaired)
    if not pairs:
        _refuse(eyes, lists, by_time=lefts is not None and rights is not None)
    if rest := unpaired.describe():
        log.warning("%s: images without a partner are left out: %s", name, rest)
    levels = Levels(*settings.levels) if settings.levels else _levels(eyes, pairs)
    fps = 1e9 / step_ns if lefts is not None and rights is not None and step_ns is not None else None
    return RecordedCamera(name, partial(_play, eyes, pairs, levels), settings, fps=fps)


def _eyes_of(root: Path) -> tuple[Eye, Eye]:
    """Return the eyes below a root; for a folder that has images itself, this folder twice. Raises CameraError."""
    try:
        return find_root(root)
    except CameraError:
        if not root.is_dir() or not any(names.is_image(path.name) for path in root.iterdir()):
            raise
    log.warning("dir:%s is one folder of images: each of them is both eyes of a pair", root)
    return Eye(root), Eye(root)


def _tell_calibration(root: Path, settings: CameraSettings) -> None:
    """Say that a root has a calibration that is not used. It is applied only where it is told: images are forwarded otherwise."""
    found = find_calibration(root)
    if found and not settings.rectify:
        with suppress(CalibrationError):
            if not read_calibration(found).rectified:
                log.warning("%s has a calibration, which is not used: --rectify %s makes rows equal", root, root)


def _play(eyes: Sequence[Eye], pairs: Sequence[tuple[_Named, _Named]], levels: Levels) -> Iterator[Shot | BadShot]:
    for pair in pairs:
        try:
            left, right = (
                replace(read_eye(eye.folder / named.name, levels), captured_ns=named.captured_ns)
                for eye, named in zip(eyes, pair, strict=True)
            )
        except BadShot as bad:
            yield bad
        else:
            yield Shot(left, right)


def _by_time(
    lefts: dict[str, int], rights: dict[str, int], tolerance_ns: int | None, unpaired: Unpaired
) -> list[tuple[_Named, _Named]]:
    def leave(eye: EyeName, named: _Named) -> None:
        unpaired.add(eye, named.name)

    pairing, pairs = Pairing[_Named](tolerance_ns, on_unpaired=leave), []
    sides: dict[EyeName, dict[str, int]] = {"left": lefts, "right": rights}
    images = sorted((time_ns, eye, name) for eye, side in sides.items() for name, time_ns in side.items())
    for time_ns, eye, name in images:
        pairs += pairing.add(eye, _Named(time_ns, name))
    return pairs + pairing.end()


def _note_rest(lists: Sequence[Sequence[str]], matched: Sequence[tuple[str, str]], unpaired: Unpaired) -> None:
    eyes: tuple[EyeName, EyeName] = ("left", "right")
    for eye, listed, used in zip(eyes, lists, zip(*matched, strict=True), strict=False):
        for name in sorted(set(listed) - set(used), key=names.natural_order):
            unpaired.add(eye, name)


def _refuse(eyes: Sequence[Eye], lists: Sequence[Sequence[str]], *, by_time: bool) -> None:
    first, other = (
        f"{eye.folder} has {len(listed)} images, such as {listed[0]}" for eye, listed in zip(eyes, lists, strict=True)
    )
    rule = (
        "no two are near in time: --tolerance-ms may be larger"
        if by_time
        else (
            "no name is in both: images are a pair if their names are equal, apart from suffix and left or right, or are times"
        )
    )
    raise CameraError(f"{first}, and {other}, but {rule}")


def _image_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise CameraError(f"no folder {folder}: expected dir:LEFT,RIGHT, two folders of images, or dir:ROOT")
    found = sorted((path.name for path in folder.iterdir() if names.is_image(path.name)), key=names.natural_order)
    if not found:
        raise CameraError(f"{folder} holds no images (of {', '.join(sorted(names.SUFFIXES))})")
    return found


def _times(eye: Eye, listed: Sequence[str]) -> dict[str, int] | None:
    known = {name: eye.times_ns[name] for name in listed if name in eye.times_ns}
    return known if len(known) == len(listed) else names.times_ns(listed)


def _levels(eyes: Sequence[Eye], pairs: Sequence[tuple[_Named, _Named]]) -> Levels:
    samples = Sample(), Sample()
    for pair in pairs[:AHEAD]:
        for eye, named, sample in zip(eyes, pair, samples, strict=True):
            sample.offer(partial(deep_image, eye.folder / named.name))
    return Levels.of([image for sample in samples for image in sample.images])
