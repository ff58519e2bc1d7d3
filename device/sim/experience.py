"""What the wearer of the simulated rig does, as signals: motion as the action and, if it is wanted, a reward. Pure."""

from __future__ import annotations

import cv2
import numpy as np

from device.sim.render import Pose
from device.sim.world import Floats
from stream.signals.signal import ACTION, REWARD, Signal, Telemetry

ACTION_UNIT = "m/s, rad/s"


class Experience:
    """Turns the poses of a walk, one after the other, into telemetry. fps: shots per second. reward: whether there is one.

    The action of a shot is the mean velocity since the shot before, float64 [6] as in ROS's Twist: right, down and forward in
    m/s, then the rates of turn about these axes in rad/s. The axes are those of the left eye at the shot before. The reward is 1
    in a room that the walk had not visited before, else 0.
    """

    def __init__(self, fps: float, *, reward: bool) -> None:
        self._fps = fps
        self._reward = reward
        self._before: Pose | None = None
        self._visited: set[int] = set()

    def telemetry(self, pose: Pose, captured_ns: int) -> Telemetry:
        """Return what was done and gained up to a pose."""
        signals = {}
        if self._before is not None:
            signals[ACTION] = Signal(self._fps * motion(self._before, pose), captured_ns, ACTION_UNIT)
        if self._reward:
            signals[REWARD] = Signal(float(pose.place not in self._visited), captured_ns)
        self._before = pose
        self._visited.add(pose.place)
        return Telemetry(signals)


def motion(before: Pose, now: Pose) -> Floats:
    """Return how the left eye has moved, float64 [6]: metres along its earlier axes, then its rotation vector in radians."""
    turned, _ = cv2.Rodrigues(before.axes @ now.axes.T)
    return np.concatenate([before.axes @ (now.position - before.position), turned.ravel()])
