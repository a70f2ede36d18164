"""The dashboard asks for metrics that exist, by labels that they have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from headrace.runtime import metrics

ROOT = Path(__file__).parents[3]
DASHBOARD = json.loads((ROOT / "infra/compose/grafana/dashboards/headrace.json").read_text("utf-8"))
DECLARED = {
    f"{metric._name}_total" if isinstance(metric, Counter) else metric._name: metric
    for metric in vars(metrics).values()
    if isinstance(metric, Counter | Gauge | Histogram)
}
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
# What every scrape brings, and what the scrape configuration adds.
ALWAYS = {"le", "service", "instance", "job"}


def asked(expression: str) -> list[str]:
    return [
        name.removesuffix("_bucket")
        for name in re.findall(r"(?:headrace|http)_[a-z_]+", expression.replace('"headrace"', ""))
    ]


@pytest.mark.parametrize(("title", "expression"), QUERIES, ids=[title for title, _ in QUERIES])
def test_every_query_is_of_a_metric_and_labels_that_exist(title: str, expression: str) -> None:
    names = asked(expression)
    assert set(names) <= set(DECLARED), title
    labels = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    for name in names:
        assert labels <= {*DECLARED[name]._labelnames, *ALWAYS}, title
        assert ("_bucket" in expression) == isinstance(DECLARED[name], Histogram)
        assert not isinstance(DECLARED[name], Counter) or re.search(rf"(rate|increase)\({name}\[", expression)
    assert expression.count("(") == expression.count(")")


def test_every_metric_of_the_service_is_shown() -> None:
    shown = {name for _, expression in QUERIES for name in asked(expression)}
    # Producers run at the edge, where this composition does not scrape.
    assert {name for name in DECLARED if not name.startswith("headrace_producer_")} == shown


def test_every_alert_is_of_a_metric_that_exists_and_has_an_entry_in_the_runbook() -> None:
    runbook = (ROOT / "docs/runbook.md").read_text("utf-8")
    (group,) = yaml.safe_load((ROOT / "infra/compose/alerts.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]:
        assert set(asked(rule["expr"])) <= set(DECLARED), rule["alert"]
        entry = re.search(r"docs/runbook.md, ([\w ]+)\.", rule["annotations"]["description"])
        assert entry, rule["alert"]
        assert f"\n## {entry[1]}\n" in runbook
    assert yaml.safe_load((ROOT / "infra/compose/prometheus.yml").read_text("utf-8"))["rule_files"] == ["alerts.yml"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place: dict[str, Any] = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
