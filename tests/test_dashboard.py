"""deploy/grafana/fleetlift.json is what Grafana takes, and asks for nothing that the server does not expose."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from docs.generating.metrics import OF_THE_FORMAT, families

REPOSITORY = Path(__file__).parents[1]
DASHBOARD: dict[str, Any] = json.loads((REPOSITORY / "deploy" / "grafana" / "fleetlift.json").read_text())
ALERTS = re.findall(r"^\| (`.*?)\|", (REPOSITORY / "docs" / "observability.md").read_text(), re.MULTILINE)
METRIC = re.compile(r"\bfleetlift_\w+")
SELECTOR = re.compile(r"(\bfleetlift_\w+)\{([^}]*)\}")
BY = re.compile(r"\bby \(([^)]*)\)[ ]?\((.*)")
ROUTINE = {"job", "instance"}
"""Labels that Prometheus itself adds."""


def exposed() -> dict[str, set[str]]:
    """The labels of everything that can be asked for, by its name."""
    return {
        sample.name: set(sample.labels) | OF_THE_FORMAT | ROUTINE for family in families() for sample in family.samples
    }


def expressions() -> list[str]:
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = [it["definition"] for it in DASHBOARD["templating"]["list"] if it["type"] == "query"]
    return [*asked, *variables, *(line for line in ALERTS if "fleetlift_" in line)]


@pytest.mark.parametrize("expression", expressions())
def test_all_that_is_asked_for_is_exposed_with_those_labels(expression: str) -> None:
    known = exposed()
    names = METRIC.findall(expression)
    assert names
    assert set(names) <= set(known)
    for name, selector in SELECTOR.findall(expression):
        assert set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector)) <= known[name], expression
    for labels, _ in BY.findall(expression):
        assert set(labels.split(", ")) <= known[names[0]], expression


def test_grafana_takes_it() -> None:
    assert DASHBOARD["schemaVersion"] >= 39
    assert DASHBOARD["uid"] == "fleetlift"
    assert "__inputs" not in DASHBOARD
    ids = Counter(panel["id"] for panel in DASHBOARD["panels"])
    assert max(ids.values()) == 1
    variables = {it["name"] for it in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)\}?", json.dumps(DASHBOARD["panels"]))) <= variables
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"].endswith(".")
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


def test_no_panel_covers_another() -> None:
    taken: Counter[tuple[int, int]] = Counter()
    for place in (panel["gridPos"] for panel in DASHBOARD["panels"]):
        assert place["x"] + place["w"] <= 24
        columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        taken.update((x, y) for x in columns for y in rows)
    assert max(taken.values()) == 1


def test_every_metric_but_the_few_for_other_purposes_is_on_it() -> None:
    shown = {name for expression in expressions() for name in METRIC.findall(expression)}
    families_shown = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in shown}
    assert {it.name for it in families()} - families_shown == {"fleetlift_webhook_enabled"}
