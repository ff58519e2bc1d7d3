"""Battery and temperature from files as the kernel has them, and without such files."""

from __future__ import annotations

from pathlib import Path

import pytest

from device.metrics import DeviceMetrics
from device.vitals import READ_INTERVAL_S, Sensors
from stream.live.backfill_messages import Vitals


def tell(root: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


PI = {
    "thermal/thermal_zone0/type": "cpu-thermal\n",
    "thermal/thermal_zone0/temp": "61234\n",
    "thermal/cooling_device0/cur_state": "3\n",
    "power_supply/rpi-poe/type": "Mains\n",
    "power_supply/rpi-poe/online": "1\n",
}
BATTERY = {"power_supply/BAT0/type": "Battery\n", "power_supply/BAT0/capacity": "83\n"}


def read(root: Path) -> Vitals:
    return Sensors(root).read()


def test_a_pi_reports_its_temperature_and_with_a_battery_its_charge(tmp_path: Path) -> None:
    tell(tmp_path, PI)
    assert read(tmp_path) == Vitals(temperature_c=61.234)
    tell(tmp_path, BATTERY)
    assert read(tmp_path) == Vitals(battery=0.83, temperature_c=61.234)


def test_of_several_the_hottest_and_the_emptiest_are_reported_but_not_the_battery_of_a_mouse(tmp_path: Path) -> None:
    tell(tmp_path, PI | BATTERY)
    tell(tmp_path, {"thermal/thermal_zone1/temp": "70000", "thermal/thermal_zone2/temp": "-5000"})
    tell(tmp_path, {"power_supply/BAT1/type": "Battery", "power_supply/BAT1/capacity": "40"})
    tell(tmp_path, {f"power_supply/mouse/{name}": text for name, text in MOUSE.items()})
    assert read(tmp_path) == Vitals(battery=0.4, temperature_c=70.0)


MOUSE = {"type": "Battery", "scope": "Device", "capacity": "5"}


@pytest.mark.parametrize("text", ["", "warm", "-274000", "999999999", "61.5", "9" * 5000, "\x00\xff"])
def test_a_sensor_with_a_nonsensical_value_is_not_reported(text: str, tmp_path: Path) -> None:
    tell(tmp_path, {"thermal/thermal_zone0/temp": text, "power_supply/BAT0/type": "Battery"})
    tell(tmp_path, {"power_supply/BAT0/capacity": text})
    (tmp_path / "thermal" / "thermal_zone1" / "temp").mkdir(parents=True)  # cannot be read
    assert read(tmp_path) == Vitals()


def test_a_machine_without_sensors_reports_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == Vitals()
    assert read(tmp_path / "nowhere") == Vitals()


def test_sensors_are_read_at_most_every_few_seconds(tmp_path: Path) -> None:
    now_s = [100.0]
    sensors = Sensors(tmp_path, clock=lambda: now_s[0])
    tell(tmp_path, PI)
    assert sensors.read().temperature_c == 61.234
    tell(tmp_path, {"thermal/thermal_zone0/temp": "62000"})
    now_s[0] += READ_INTERVAL_S - 0.1
    assert sensors.read().temperature_c == 61.234
    now_s[0] += 0.2
    assert sensors.read().temperature_c == 62.0


def test_prometheus_gets_the_known_values_and_no_zero_for_unknown_ones() -> None:
    metrics = DeviceMetrics()
    metrics.watch_sensors(lambda: Vitals(temperature_c=61.5))
    assert metrics.registry.get_sample_value("babyagent_device_temperature_celsius") == 61.5
    assert metrics.registry.get_sample_value("babyagent_device_battery_ratio") is None
