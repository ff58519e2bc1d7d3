"""The shipped files fit together, also where there is no Prometheus to try them on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "babyagent.json"
OURS = re.compile(r"babyagent_(?:device|stream|buffer|learner)_\w+")


def values_of(key: str, tree: Any) -> Iterator[Any]:
    """All that a key names, anywhere in a tree of JSON."""
    if isinstance(tree, list):
        for item in tree:
            yield from values_of(key, item)
    elif isinstance(tree, dict):
        for name, item in tree.items():
            if name == key:
                yield item
            yield from values_of(key, item)


@pytest.mark.parametrize("path", ["grafana/dashboards/babyagent.json", "alerts.yml", "alerts_test.yml"])
def test_every_metric_that_is_asked_for_is_documented(path: str) -> None:
    documented = set(OURS.findall((ROOT / "docs" / "metrics.md").read_text()))
    asked = {re.sub("_(bucket|sum|count)$", "", name) for name in OURS.findall((DEPLOY / path).read_text())}
    assert len(asked) > 8
    assert asked <= documented


def test_the_dashboard_asks_the_datasource_that_is_provisioned() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    provisioned = (DEPLOY / "grafana" / "provisioning" / "datasources" / "babyagent.yml").read_text()
    uids = {source["uid"] for source in values_of("datasource", dashboard)}
    assert uids == set(re.findall(r"\buid: (\w+)", provisioned))


def test_what_the_compose_file_mounts_is_there_and_where_grafana_looks() -> None:
    compose = (DEPLOY / "compose.yml").read_text()
    mounts = dict(re.findall(r"- \./(\S+?):(\S+?):ro", compose))
    assert set(mounts) == {"prometheus.yml", "alerts.yml", "targets", "grafana/provisioning", "grafana/dashboards"}
    assert all((DEPLOY / name).exists() for name in mounts)
    provider = (DEPLOY / "grafana" / "provisioning" / "dashboards" / "babyagent.yml").read_text()
    assert f"path: {mounts['grafana/dashboards']}\n" in provider
    assert f"{mounts['grafana/dashboards']}/{DASHBOARD.name}" in compose


def test_every_panel_says_what_it_shows_and_has_a_place_of_its_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    for panel in panels:
        assert panel["type"] == "row" or panel["description"].endswith("."), panel["title"]
