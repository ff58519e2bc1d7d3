"""A camera class of one's own, for example `package.module:Class` or `package.module:Class?key=value&other=value`, or a
function that reads signals.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np

from device.camera import DEFAULTS, BadShot, Camera, CameraError, CameraMissing, CameraSettings, EyeImage, Shot
from device.cameras import spec
from device.signals import ReadSignals
from stream.errors import ReportedError
from stream.image import image_shape


class CustomCamera:
    """Gives the shots of a class that somebody else wrote, and says in one line what is wrong with it.

    name: `package.module:Class`. The class is called with the settings, and with the options as keyword arguments, which are
    texts. What it returns must be a `device.camera.Camera`. Raises CameraError if it is not.
    """

    def __init__(self, name: str, settings: CameraSettings = DEFAULTS, **options: str) -> None:
        self._name = name
        try:
            self._camera: Camera = _load(name, "class")(settings, **options)
        except ReportedError:
            raise
        except Exception as error:
            raise CameraError(f"{name} cannot be opened: {_where(error)}") from error
        missing = [part for part in ("fps", "__iter__", "close") if not hasattr(self._camera, part)]
        if missing:
            raise CameraError(
                f"{name} is no camera: it has no {', '.join(missing)}; device/camera.py describes `Camera`"
            )
        self.fps = self._camera.fps

    def __iter__(self) -> Iterator[Shot | BadShot]:
        """Yield its shots. Raises CameraMissing if it fails, CameraError if what it yields is not as described."""
        try:
            for shot in self._camera:
                if not isinstance(shot, (Shot, BadShot)):
                    raise CameraError(f"{self._name} yields a {type(shot).__name__}; a camera yields Shot or BadShot")
                yield shot if isinstance(shot, BadShot) else self._checked(shot)
        except ReportedError:
            raise
        except Exception as error:
            raise CameraMissing(f"{self._name} has failed: {_where(error)}") from error

    def close(self) -> None:
        """Close it."""
        self._camera.close()

    def _checked(self, shot: Shot) -> Shot:
        try:
            return replace(shot, left=_checked_eye(shot.left), right=_checked_eye(shot.right))
        except ValueError as error:
            text = " ".join(str(error).split())
            raise CameraError(f"{self._name}: {text}; device/camera.py describes `EyeImage`") from error


def find_signals(text: str) -> Any:
    """Return the function or class that a name of what reads signals leads to, not yet called. Raises CameraError."""
    name, options = spec.options(text)
    if not spec.CLASS.fullmatch(text):
        raise CameraError(f"--signals {name!r}: expected package.module:function or package.module:Class")
    found = _load(name, "function or class")
    if options and not isinstance(found, type):
        raise CameraError(f"--signals {name} is a function: options are for a class")
    return found


def open_signals(text: str) -> ReadSignals:
    """Return the function that reads signals: `package.module:function`, or what `package.module:Class?key=value` makes.

    A class is called with its options, which are texts. Raises CameraError if there is no such thing, or if it fails.
    """
    name, options = spec.options(text)
    found = find_signals(text)
    if not isinstance(found, type):
        return found  # type: ignore[no-any-return]
    try:
        reader: Any = found(**options)
    except ReportedError:
        raise
    except Exception as error:
        raise CameraError(f"--signals {name} cannot be opened: {_where(error)}") from error
    if not callable(reader):
        raise CameraError(f"--signals {name}: what the class makes cannot be called: it needs __call__")
    return reader  # type: ignore[no-any-return]


def _load(name: str, what: str) -> Any:
    """Import something that can be called. what: it is, in the CameraError that is raised if there is none."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        hint = "start in its folder, or put that into PYTHONPATH"
        raise CameraError(f"{name}: there is no module {error.name}: {hint}") from error
    except (Exception, SystemExit) as error:  # of any kind: it is the code of somebody else
        raise CameraError(f"{name} cannot be imported: {_where(error)}") from error
    if not callable(found):
        raise CameraError(f"{name}: the module {module} has no {what} {attribute}")
    return found


def _checked_eye(eye: Any) -> EyeImage:
    """Return the image of an eye with the types that it must have. Raises ValueError if they are others."""
    if not isinstance(eye, EyeImage):
        raise ValueError(f"an eye of its shots is a {type(eye).__name__}, not an EyeImage")
    time_ns, jpeg = cast(Any, eye.captured_ns), cast(Any, eye.jpeg)  # somebody else's code may put anything there
    if not isinstance(time_ns, (int, np.integer)) or not 0 <= time_ns < 1 << 63:
        raise ValueError(f"captured_ns must be a whole number of nanoseconds since 1970, got {time_ns!r}")
    if not isinstance(jpeg, (bytes, type(None))):
        raise ValueError(f"jpeg must be bytes, got a {type(jpeg).__name__}")
    pixels, luma = (None if image is None else np.asarray(image) for image in (eye.pixels, eye.luma))
    if pixels is not None:
        image_shape(pixels)
    if luma is not None and image_shape(luma)[2] != 1:
        raise ValueError("luma must be grey, uint8 [h, w]")
    return replace(eye, captured_ns=int(time_ns), pixels=pixels, luma=luma)


def _where(error: BaseException) -> str:
    """Return an error in one line, with the file and line where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
