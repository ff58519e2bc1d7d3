"""Signals in bags of ROS: Imu, Odometry and Twist, under the names that have a meaning here."""

from __future__ import annotations

import math
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from stream.recording.mcap_reader import Message, Topic
from stream.recording.messages import read_ros
from stream.signals.gather import Gathering
from stream.signals.signal import ACCELERATION, ACTION, GYROSCOPE, MAX_NAME, ODOMETRY, BadSignal, Signal

MAX_WAITING = 1 << 16
"""Rows that wait for an image; beyond it the oldest ones are left out, and counted."""
HELD_ROWS = 1 << 14
"""Rows of a signal that wait for the pair they belong to: in some recordings the eyes lie one after the other."""
MAX_MESSAGE_BYTES = 64 << 10


class _Row(NamedTuple):
    name: str
    unit: str
    values: list[float]
    stamp_ns: int
    """0 if the message has no time of its own."""
    log_ns: int


class RosSignals:
    """Collects the signals of a bag until the pairs come to which they belong.

    The first topic of a kind has the name with a meaning, such as acceleration; another one's name ends in its topic. refuse:
    called with a topic and what is wrong with one of its messages.
    """

    def __init__(self, refuse: Callable[[str, ValueError], None]) -> None:
        self._refuse = refuse
        self._waiting: deque[_Row] = deque()
        self._gathering = Gathering(lambda error: refuse("signals", error), max_rows=HELD_ROWS)
        self._names: dict[tuple[str, str], str] = {}
        self._clocks_apart_ns = 0
        self._without_pair = 0
        self._pair_ns: int | None = None

    @property
    def left_out(self) -> int:
        """Valid rows that no pair has: there were too many for one, or they came after all pairs of their time."""
        return self._gathering.thinned + self._without_pair

    def add(self, message: Message) -> None:
        """Add a message of which `signal_reader` says that it is read. Raises StreamError without `rosbags`."""
        topic = message.topic
        read = signal_reader(topic)
        if read is None:
            return
        try:
            if len(message.data) > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message of {len(message.data)} bytes is no signal")
            schema = topic.schema if "/msg/" in topic.schema else topic.schema.replace("/", "/msg/")
            found = read_ros(schema, topic.encoding, message.data)
        except ValueError as error:
            self._refuse(topic.name, error)
            return
        stamp = getattr(getattr(found, "header", None), "stamp", None)
        stamp_ns = 0 if stamp is None else 10**9 * stamp.sec + stamp.nanosec
        for name, unit, values in read(found):
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.popleft()
                self._without_pair += 1
            self._waiting.append(_Row(self._name(name, topic.name), unit, values, stamp_ns, message.time_ns))

    def see_image(self, stamp_ns: int, log_ns: int) -> None:
        """Note how far apart the clocks of stamps and of log times are, for messages without a stamp."""
        if stamp_ns:
            self._clocks_apart_ns = log_ns - stamp_ns

    def take(self, pair_ns: int, *, by_stamp: bool) -> dict[str, Signal]:
        """Return the rows up to a pair. by_stamp: whether the images have the time of their stamps, not of the log."""
        rows: dict[tuple[str, str], tuple[list[int], list[list[float]]]] = defaultdict(lambda: ([], []))
        for row in self._waiting:
            times_ns, values = rows[row.name, row.unit]
            times_ns.append((row.stamp_ns or row.log_ns - self._clocks_apart_ns) if by_stamp else row.log_ns)
            values.append(row.values)
        self._waiting.clear()
        self._pair_ns = pair_ns
        for (name, unit), (times_ns, values) in rows.items():
            try:
                self._gathering.add({name: Signal(values, times_ns, unit)}, pair_ns)
            except BadSignal as error:
                self._refuse(name, error)
        return self._gathering.take(pair_ns, upto_ns=pair_ns)

    def end(self, *, by_stamp: bool) -> None:
        """Count the rows that came too late for their pairs. Rows after the last pair belong to none."""
        if self._pair_ns is not None:
            self._without_pair += sum(map(len, self.take(self._pair_ns, by_stamp=by_stamp).values()))

    def _name(self, name: str, topic: str) -> str:
        if (name, topic) not in self._names:
            is_first = name not in self._names.values()
            other = re.sub(r"[^A-Za-z0-9._-]+", "-", topic).strip("-")
            self._names[name, topic] = name if is_first else f"{name}.{other}"[:MAX_NAME]
        return self._names[name, topic]


def signal_reader(topic: Topic) -> Callable[[Any], Iterator[tuple[str, str, list[float]]]] | None:
    """Return what gives name, unit and values of the signals in a message of a topic; None if there are none in it."""
    return _READERS.get(topic.schema.replace("/msg/", "/")) if topic.encoding in ("cdr", "ros1") else None


def _imu(message: Any) -> Iterator[tuple[str, str, list[float]]]:
    for name, unit, vector, covariance in (
        (ACCELERATION, "m/s^2", message.linear_acceleration, message.linear_acceleration_covariance),
        (GYROSCOPE, "rad/s", message.angular_velocity, message.angular_velocity_covariance),
    ):
        if not math.isclose(covariance[0], -1.0):  # which says that it is not measured
            yield name, unit, _xyz(vector)


def _odometry(message: Any) -> Iterator[tuple[str, str, list[float]]]:
    pose = message.pose.pose
    yield ODOMETRY, "m", [*_xyz(pose.position), *_xyz(pose.orientation), float(pose.orientation.w)]


def _twist(message: Any) -> Iterator[tuple[str, str, list[float]]]:
    twist = getattr(message, "twist", message)
    yield ACTION, "m/s, rad/s", [*_xyz(twist.linear), *_xyz(twist.angular)]


def _xyz(vector: Any) -> list[float]:
    return [float(vector.x), float(vector.y), float(vector.z)]


_READERS: Mapping[str, Callable[[Any], Iterator[tuple[str, str, list[float]]]]] = {
    "sensor_msgs/Imu": _imu,
    "nav_msgs/Odometry": _odometry,
    "geometry_msgs/Twist": _twist,
    "geometry_msgs/TwistStamped": _twist,
}
"""By schema."""
