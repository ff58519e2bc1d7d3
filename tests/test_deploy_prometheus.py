"""The shipped configuration, alerts and dashboard in a real Prometheus that scrapes a real rig and a real learner."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny_learner import FLAGS
from waiting import WAIT_S, until

from benchmarks.shared.machine import free_port

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "babyagent.json"
WINDOW = "20s"
"""What a person's dashboard shows over hours is asked over so long here."""
SMALL = (*FLAGS, "--memory.canvas", "24", "32", "--memory.capacity", "64", "--memory.fresh-capacity", "64")
SELECTOR = re.compile(r"\b(?:babyagent_\w+|process_\w+|up)\b(?:\{[^}]*\})?")

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="there is no prometheus with its promtool here: apt-get install prometheus",
)


class Prometheus:
    """A running Prometheus with the shipped rules."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str, **parameters: str) -> Any:
        url = f"{self._base}/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
            return json.load(answer)["data"]

    def values(self, query: str) -> list[float]:
        """What a query gives now, without what is not a number."""
        found = (float(series["value"][1]) for series in self.get("query", query=query)["result"])
        return [value for value in found if not math.isnan(value)]

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


def dashboard_queries() -> list[str]:
    """Each query as Grafana would send it, over a short time."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [query.replace("$__rate_interval", WINDOW).replace("$__range", WINDOW) for query in found]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes a simulated rig and a learner, each in a process of its own, until each of their series is there."""
    folder = tmp_path_factory.mktemp("prometheus")
    stream, rig, learner, web = (free_port() for _ in range(4))
    for name in ("alerts.yml", "prometheus.yml"):
        text = (DEPLOY / name).read_text().replace(" 15s", " 1s")
        (folder / name).write_text(text.replace("127.0.0.1:9632", f"127.0.0.1:{learner}"))
    targets = (DEPLOY / "targets" / "rigs.yml.example").read_text().replace("127.0.0.1:9633", f"127.0.0.1:{rig}")
    (folder / "targets").mkdir()
    (folder / "targets" / "rigs.yml").write_text(targets)
    address = f"tcp://127.0.0.1:{stream}"
    commands = {
        "rig": [
            *(sys.executable, "-m", "device", "--camera", "sim", "--size", "128x96", "--places", "2", "--fps", "20"),
            *("--name", "rig1", "--bind", address, "--spool", str(folder / "spool"), "--metrics-port", str(rig)),
        ],
        "learner": [
            *(sys.executable, "-m", "learner", "--connect", address, "--run-dir", str(folder / "run")),
            *("--http-port", str(learner), "--commit-every-s", "2", *SMALL),
        ],
        "prometheus": [
            *("prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
            *(f"--web.listen-address=127.0.0.1:{web}", "--log.level=warn"),
        ],
    }
    with ExitStack() as stack:
        processes = {name: stack.enter_context(running(command, folder / name)) for name, command in commands.items()}
        served = Prometheus(web)

        def is_up() -> bool:
            for name, process in processes.items():
                assert process.poll() is None, (folder / f"{name}.log").read_text()
            return is_ready(served)

        until(is_up, lambda: "\n".join((folder / f"{name}.log").read_text() for name in commands))
        yield served


def is_ready(prometheus: Prometheus) -> bool:
    """Whether pairs were taken, trained on and probed for as many scrapes as a rate needs, and the rules were looked at."""
    try:
        return bool(
            prometheus.values("babyagent_learner_probe_accuracy_ratio")
            and prometheus.values(f"rate(babyagent_device_captured_pairs_total[{WINDOW}]) > 0")
            and prometheus.values(f"rate(babyagent_learner_steps_total[{WINDOW}]) > 0")
            and prometheus.values(f"increase(babyagent_learner_capture_to_gradient_seconds_count[{WINDOW}]) > 0")
            and all(rule["health"] != "unknown" for rule in prometheus.rules())
        )
    except OSError:
        return False


@contextmanager
def running(command: list[str], path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that says what it has to say into a file beside `path`, until the end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with path.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_promtool_accepts_the_configuration_and_the_rules_pass_their_own_tests() -> None:
    for words in (("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")):
        done = subprocess.run(["promtool", *words], cwd=DEPLOY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_shipped_misses_no_rig_that_nobody_has() -> None:
    """TargetDown would ring for each that is named."""
    assert re.findall(r"[\w.]+:9\d{3}", (DEPLOY / "prometheus.yml").read_text().partition("scrape_configs:")[2]) == [
        "127.0.0.1:9632"
    ]


def test_the_learner_and_the_rig_of_the_example_are_scraped(prometheus: Prometheus) -> None:
    targets = prometheus.get("targets")["activeTargets"]
    assert {(target["labels"]["job"], target["health"]) for target in targets} == {("learner", "up"), ("rig", "up")}


def test_every_query_of_the_dashboard_returns_data(prometheus: Prometheus) -> None:
    queries = dashboard_queries()
    assert len(queries) > 20
    for query in queries:
        until(partial(prometheus.values, query), lambda: queries)  # a late scrape leaves a rate empty


def test_every_alert_can_be_evaluated_on_series_that_are_there_and_none_fires(prometheus: Prometheus) -> None:
    rules = prometheus.rules()
    assert len(rules) > 8
    for rule in rules:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule
        selectors = SELECTOR.findall(rule["query"])
        assert selectors, rule
        assert [selector for selector in selectors if not prometheus.values(selector)] == [], rule
        assert rule["state"] != "firing", (
            rule
        )  # pending may be: a spool that has just begun to fill seems to go on like that


def test_no_series_has_a_name_that_is_not_documented(prometheus: Prometheus) -> None:
    documented = set(re.findall(r"`(babyagent_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    names = [name for name in prometheus.get("label/__name__/values") if name.startswith("babyagent_")]
    assert len(names) > 60
    for name in names:
        assert {name, re.sub("_(bucket|sum|count)$", "", name)} & documented, name


def test_the_pair_of_a_rig_on_this_machine_takes_no_negative_time_and_its_clock_is_ours(prometheus: Prometheus) -> None:
    (offset_s,) = prometheus.values("babyagent_stream_device_clock_offset_seconds")
    (error_s,) = prometheus.values("babyagent_stream_device_clock_error_seconds")
    assert abs(offset_s) <= error_s + 1e-3
    assert prometheus.values("babyagent_learner_capture_to_gradient_seconds_sum")[0] > 0
