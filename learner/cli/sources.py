"""The source of a learner's pairs: devices on the network, recordings, or a camera in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from device.cameras.custom import find_signals
from device.cameras.open import Origin, camera_kind
from device.cameras.spec import redacted
from device.cli.capture_settings import RigSettings
from device.cli.local import check_local, open_local
from learner.cli.settings import ProcessConfig
from learner.errors import SettingsError
from stream.calibration.align import aligner
from stream.calibration.source import AlignedSource
from stream.host.standins import is_stand_in
from stream.live.subscriber import Subscriber
from stream.recording.source import RecordingSource
from stream.source import Cursor, Source
from stream.transport.endpoint import connect_address, security_for

OpenSource = Callable[[str, Cursor | None], Source]
"""Opens a source for a learner of this name, which continues behind this cursor."""


def source_opener(process: ProcessConfig) -> OpenSource:
    """Check the settings of the source without opening it yet, and return the function that opens it.

    Raises StreamError or SettingsError for a source that can never be opened; the returned function raises SettingsError for
    the cursor of another kind of source.
    """
    if process.source is not None and process.replay:
        raise SettingsError("--source and --replay are two sources: give one of them")
    if process.connect != ProcessConfig.connect and (process.source is not None or process.replay):
        raise SettingsError(
            f"--connect and --{'replay' if process.replay else 'source'} are two sources: give one of them"
        )
    if process.source is not None:
        opener = _camera_opener(process, process.source)
    else:
        opener = _recording_opener(process) if process.replay else _subscriber_opener(process)

    def open_source(name: str, cursor: Cursor | None) -> Source:
        try:
            return opener(name, cursor)
        except ValueError as error:
            raise SettingsError(
                "the run goes on with the kind of source that it learned from, a rig, a recording or a camera: give the same "
                f"--connect, --replay or --source as before, or choose another --run-dir ({error})"
            ) from error

    return open_source


def origin_of(process: ProcessConfig) -> str:
    """Return in words where the pairs come from if no rig sends them; empty if rigs do."""
    if process.replay:
        count = len(process.replay)
        return f"the recording {process.replay[0].name}" if count == 1 else f"{count} recordings"
    if process.source is None:
        return ""
    kind = camera_kind(process.source)
    if kind.origin is not Origin.RECORDING:
        return "the simulated world" if kind.origin is Origin.SIMULATION else "a camera"
    names = [Path(name).resolve().name for name in kind.names(kind.form, process.source)]
    return f"the {'folder' if kind.word == 'dir' else 'video'}{'s' * (len(names) > 1)} {' and '.join(names)}"


def _camera_opener(process: ProcessConfig, camera: str) -> OpenSource:
    if process.rectify or process.row_shift_px is not None:
        raise SettingsError(
            "--rectify and --row-shift-px are for --replay: with --source they are --rig.rectify, --rig.row-shift-px"
        )
    settings = rig_settings(process, camera)
    try:
        check_local(settings)
        if settings.signals is not None and not is_stand_in(torch):  # the code of somebody else may need the real one
            find_signals(settings.signals)
    except ValueError as error:
        raise SettingsError(f"--source {redacted(camera)}: {error}") from error
    return lambda _name, cursor: open_local(settings, cursor)


def rig_settings(process: ProcessConfig, camera: str) -> RigSettings:
    """Return the settings of the rig in this process."""
    return RigSettings(
        camera=camera, repeat=process.repeat, count=process.count, dedupe=process.dedupe, **vars(process.rig)
    )


def _recording_opener(process: ProcessConfig) -> OpenSource:
    if process.rectify and process.row_shift_px is not None:
        raise SettingsError("--rectify and --row-shift-px both make rows equal: give one of them")
    try:
        RecordingSource(process.replay, speed=process.replay_speed, topics=process.topics).close()
    except ValueError as error:
        raise SettingsError(f"--replay-speed: {error}") from error
    align = aligner(process.rectify, process.row_shift_px)

    def open_it(_name: str, cursor: Cursor | None) -> Source:
        source = RecordingSource(process.replay, cursor=cursor, speed=process.replay_speed, topics=process.topics)
        return source if align is None else AlignedSource(source, align)

    return open_it


def _subscriber_opener(process: ProcessConfig) -> OpenSource:
    if process.rectify or process.row_shift_px is not None:
        raise SettingsError("--rectify and --row-shift-px are for --replay: a rig has these flags itself")
    security = security_for(process.connect, keys=process.keys, insecure=process.insecure)
    for endpoint in process.connect:
        connect_address(endpoint, security=security, insecure=process.insecure)
    return lambda name, cursor: Subscriber(
        process.connect,
        consumer=name,
        cursor=cursor,
        end_on_bye=process.until_device_ends,
        security=security,
        insecure=process.insecure,
    )
