"""What a person can ask of a camera, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HARDWARE_SIZE = (720, 1280)
HARDWARE_FPS = 30.0


@dataclass(frozen=True, kw_only=True)
class CameraSettings:
    """Each kind of camera uses the settings that mean something to it. None: the camera's own default."""

    fps: float | None = None
    """Rate asked of the hardware or of the simulator, or at which a recording is stamped, in Hz; 0 is the same as None."""
    repeat: bool = False
    """Whether a recording begins again at its end."""
    size: tuple[int, int] | None = None
    """Height and width asked of the hardware or of the simulator, pixels."""
    seed: int = 0
    """Decides the simulated world."""
    walk: int = 0
    """Decides the path and the light in the simulated world."""
    textures: Path | None = None
    """A folder of photographs that hang in the simulated world."""
    places: int = 16
    """Number of rooms of the simulated world."""
    start_ns: int | None = None
    """Capture time of the first shot of a recording or of the simulator, nanoseconds since 1970; None: now."""

    @property
    def hardware_size(self) -> tuple[int, int]:
        """Height and width asked of the hardware."""
        return self.size or HARDWARE_SIZE

    @property
    def hardware_fps(self) -> float:
        """Rate asked of the hardware, Hz."""
        return self.fps or HARDWARE_FPS


DEFAULTS = CameraSettings()
