"""config/grafana/sluice.json: its names against the metrics that exist, its queries against a real Prometheus."""

from __future__ import annotations

import asyncio
import json
import math
import re
from pathlib import Path

import pytest
from support.demo import kept_demo
from support.eventful import eventful
from support.prometheus import SCRAPE_S, Prometheus, prometheus

from proxy.record.figures import FIGURES, PREFIX

ROOT = Path(__file__).resolve().parents[2]
BOARD = json.loads((ROOT / "config/grafana/sluice.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
TARGETS = [pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}") for panel in PANELS for target in panel["targets"]]
LABELS = {PREFIX + figure.name: {*figure.labels, "job", "instance"} for figure in FIGURES}
LABELS |= {f"{PREFIX}{figure.name}_bucket": {*figure.labels, "job", "instance", "le"} for figure in FIGURES if figure.buckets}
WHEN_NONE = " or on() vector(0)"
EVENT_BORN = ("refusals", "retries", "fallbacks", "breaker", "pii", "estimated", "unpriced")


def as_grafana_asks(expr: str) -> str:
    """With the variables filled in as Grafana would for a short range."""
    return expr.replace("$__rate_interval", "10s").replace("$provider", ".*")


@pytest.mark.parametrize("expr", TARGETS)
def test_a_query_names_only_metrics_and_labels_that_exist(expr: str) -> None:
    metrics = re.findall(r"\b(sluice_\w+)(?:\{([^}]*)\})?", expr)
    assert metrics
    for name, selector in metrics:
        assert name in LABELS
        assert set(re.findall(r"(\w+)\s*[!=]", selector)) <= LABELS[name]
    for group in re.findall(r"\bby \(([^)]*)\)", expr):
        assert {label.strip() for label in group.split(",")} <= set.intersection(*(LABELS[name] for name, _ in metrics))


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_legend_shows_only_labels_that_its_query_keeps(panel: dict) -> None:
    for target in panel["targets"]:
        kept = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", target["expr"]) for label in group.split(",")}
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert shown <= (kept or {"instance", "job"})


def test_every_metric_that_the_issue_names_is_on_the_board() -> None:
    text = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    wanted = ["requests_total", "refusals_total", "tokens_total", "cost_usd_total", "request_duration_seconds", "first_byte_seconds",
              "overhead_seconds", "in_flight", "retries_total", "fallbacks_total", "breaker_state", "limit_used_ratio", "pii_found_total",
              "estimated_usage_total", "unpriced_total", "policy_generation", "policy_reload_failed_total"]  # fmt: skip
    assert [name for name in wanted if PREFIX + name not in text] == []
    assert all(f"by ({who})" in text for who in ("caller", "model", "team"))


def test_panels_do_not_lie_over_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


async def test_after_everything_has_happened_once_more_each_query_gives_a_number(tools: dict[str, Path], tmp_path: Path) -> None:
    """Without the zero that stands for "never happened": the series themselves must be there, and hold the labels that are asked for."""
    async with eventful(tmp_path) as (sluice, events), prometheus(tools["prometheus"], tmp_path / "prometheus", sluice.admin) as asked:
        await events.all()
        await asked.until("sluice_unpriced_total")
        await events.all()
        await asyncio.sleep(3 * SCRAPE_S)
        silent = [param.id for param in TARGETS if not await numbers(asked, param.values[0].replace(WHEN_NONE, ""))]
        assert silent == []
        (spend,) = await asked.query("sum(sluice_cost_usd_total)")
        charged = sum(row["cost_nanousd"] for row in await sluice.rows()) / 1e9
        assert float(spend["value"][1]) == pytest.approx(charged) and charged > 0


async def test_after_the_demo_every_panel_shows_something(tools: dict[str, Path], tmp_path: Path) -> None:
    async with kept_demo(tmp_path) as admin, prometheus(tools["prometheus"], tmp_path / "prometheus", admin) as asked:
        await asked.until("count_over_time(sluice_build_info[1m]) > 2")
        empty = [param.id for param in TARGETS if not await asked.query(as_grafana_asks(param.values[0]))]
        assert empty == []


def test_what_may_never_happen_shows_zero_and_not_nothing() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            if any(f"sluice_{name}" in target["expr"] for name in EVENT_BORN):
                assert WHEN_NONE in target["expr"], panel["title"]


async def numbers(asked: Prometheus, expr: str) -> list[float]:
    found = [float(one["value"][1]) for one in await asked.query(as_grafana_asks(expr))]
    return [one for one in found if not math.isnan(one)]
