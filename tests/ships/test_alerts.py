"""config/prometheus: the rules by promtool, on series written by hand and scraped from a real sidecar, and in a real Prometheus."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.demo import kept_demo
from support.eventful import eventful
from support.prometheus import prometheus

from proxy.codes import CODES
from proxy.record.figures import FIGURES, PREFIX

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "config/prometheus"
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
CASES = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]
LABELS = {PREFIX + figure.name: {*figure.labels, "job", "instance"} for figure in FIGURES}
LABELS |= {f"{PREFIX}{figure.name}_bucket": {*figure.labels, "job", "instance", "le"} for figure in FIGURES if figure.buckets}
SHOWN = {"SluiceBudgetExhausted", "SluiceBudgetNearlySpent", "SluicePersonalDataBlocked", "SluicePolicyRefused", "SluiceUnpricedCalls"}


def promtool(tools: dict[str, Path], *args: str | Path, cwd: Path = FOLDER) -> None:
    done = subprocess.run([tools["promtool"], *args], cwd=cwd, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules(tools: dict[str, Path]) -> None:
    promtool(tools, "check", "rules", "alerts.yaml")


def test_each_case_of_the_rules_holds(tools: dict[str, Path]) -> None:
    promtool(tools, "test", "rules", "alerts_test.yaml")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_has_a_case_that_fires_and_one_in_which_it_is_silent(rule: dict) -> None:
    firing = [
        case["name"]
        for case in CASES
        for asked in case["promql_expr_test"]
        for sample in asked["exp_samples"]
        if f'"{rule["alert"]}"' in sample["labels"]
    ]
    assert len(set(firing)) == 1
    case = next(case for case in CASES if case["name"] == firing[0])
    assert any(asked["exp_samples"] == [] for asked in case["promql_expr_test"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_names_only_metrics_labels_and_codes_that_exist(rule: dict) -> None:
    for name, selector in re.findall(r"\b(sluice_\w+)(?:\{([^}]*)\})?", rule["expr"]):
        assert name in LABELS
        assert set(re.findall(r"(\w+)\s*[!=]", selector)) <= LABELS[name]
        for said in re.findall(r'code=~?"([^"]*)"', selector):
            assert set(said.split("|")) <= set(CODES)


def test_the_cases_use_series_as_sluice_exposes_them() -> None:
    for case in CASES:
        for series in case["input_series"]:
            name, labels = re.fullmatch(r"(\w+)\{(.*)\}", series["series"]).groups()
            assert name == "up" or set(re.findall(r"(\w+)=", labels)) <= LABELS[name], series


async def test_scraped_series_fire_the_alerts_of_what_happened_and_no_other(tools: dict[str, Path], tmp_path: Path) -> None:
    async with eventful(tmp_path) as (sluice, events):
        before = samples(await sluice.metrics())
        await events.all()
        after = samples(await sluice.metrics())
    series = [
        {"series": name, "values": f"{before[name]}x4 {value}x20" if name in before else f"_x5 {value}x20"} for name, value in after.items()
    ]
    promtool_fires(tools, tmp_path, series, {4: set(), 6: SHOWN, 9: SHOWN | {"SluiceBreakerOpen"}})


async def test_series_scraped_from_the_demo_fire_the_alerts_of_its_refusals_and_no_other(tools: dict[str, Path], tmp_path: Path) -> None:
    async with kept_demo(tmp_path) as admin, aiohttp.ClientSession() as session, session.get(f"{admin}/metrics") as reply:
        found = samples(await reply.text())
    series = [{"series": name, "values": f"_x5 {value}x20"} for name, value in found.items()]
    promtool_fires(tools, tmp_path, series, {4: set(), 6: {"SluiceBudgetExhausted", "SluicePersonalDataBlocked"}})


def promtool_fires(tools: dict[str, Path], folder: Path, series: list[dict[str, str]], firing: dict[int, set[str]]) -> None:
    """By `promtool test rules`: these alerts and no others at each minute."""
    asked = 'group by (alertname) (ALERTS{alertstate="firing"})'
    cases = [
        {
            "expr": asked,
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)],
        }
        for minute, names in firing.items()
    ]
    case = {"interval": "1m", "input_series": series, "promql_expr_test": cases}
    file = folder / "scraped_test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yaml")], "evaluation_interval": "1m", "tests": [case]}))
    promtool(tools, "test", "rules", file, cwd=folder)


def samples(exposition: str) -> dict[str, float]:
    """Series as promtool writes them, with the labels of a scrape → value."""
    found = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = {**sample.labels, "job": "sluice", "instance": "a"}
            found[sample.name + "{" + ",".join(f'{name}="{value}"' for name, value in sorted(labels.items())) + "}"] = sample.value
    return found


async def test_a_real_prometheus_fires_them_and_words_them(tools: dict[str, Path], tmp_path: Path) -> None:
    rules = FOLDER / "alerts.yaml"
    async with (
        eventful(tmp_path) as (sluice, events),
        prometheus(tools["prometheus"], tmp_path / "prometheus", sluice.admin, rules) as asked,
    ):
        assert await asked.until("sluice_policy_generation")
        await events.all()
        await asked.until(f'count(group by (alertname) (ALERTS{{alertstate="firing"}})) == {len(SHOWN)}')
        alerts = [one for one in await asked.alerts() if one["state"] == "firing"]
    assert {one["labels"]["alertname"] for one in alerts} == SHOWN
    for one in alerts:
        text = " ".join(one["annotations"].values())
        assert "<no value>" not in text and "<error" not in text and "{{" not in text
    said = {one["labels"]["alertname"]: one["annotations"]["summary"] for one in alerts}
    assert re.fullmatch(r"Budget tier free is 9\d(\.\d+)?% spent", said["SluiceBudgetNearlySpent"])
