"""A camera class of one's own, for example `package.module:Class` or `package.module:Class?key=value&other=value`."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator
from typing import Any

from device.camera import DEFAULTS, BadShot, Camera, CameraError, CameraMissing, CameraSettings, Shot
from stream.errors import ReportedError


class CustomCamera:
    """Gives the shots of a class that somebody else wrote, and says in one line what is wrong with it.

    name: `package.module:Class`. The class is called with the settings, and with the options as keyword arguments, which are
    texts. What it returns must be a `device.camera.Camera`. Raises CameraError if it is not.
    """

    def __init__(self, name: str, settings: CameraSettings = DEFAULTS, **options: str) -> None:
        self._name = name
        try:
            self._camera: Camera = _load(name)(settings, **options)
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
        """Yield its shots. Raises CameraMissing if it fails, CameraError if it yields something else."""
        try:
            for shot in self._camera:
                if not isinstance(shot, (Shot, BadShot)):
                    raise CameraError(f"{self._name} yields a {type(shot).__name__}; a camera yields Shot or BadShot")
                yield shot
        except ReportedError:
            raise
        except Exception as error:
            raise CameraMissing(f"{self._name} has failed: {_where(error)}") from error

    def close(self) -> None:
        """Close it."""
        self._camera.close()


def _load(name: str) -> Any:
    """Import a class. Raises CameraError if there is none."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        hint = "start in its folder, or put that into PYTHONPATH"
        raise CameraError(f"{name}: there is no module {error.name}: {hint}") from error
    if not callable(found):
        raise CameraError(f"{name}: the module {module} has no class {attribute}")
    return found


def _where(error: Exception) -> str:
    """Return an error in one line, with the file and line where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
