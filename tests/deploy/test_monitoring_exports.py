"""What is written for Prometheus and Grafana: Prometheus' own tool reads it, and it names what there is."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from programs import find_program
from tailrace.alerting import Alerts
from tailrace.cli.main import app
from tailrace.compile.loading import load_pipelines
from tailrace.deploy.grafana import PANELS, grafana_dashboard
from tailrace.deploy.prometheus import prometheus_rules
from tailrace.monitor.alerts.rules import RULES
from tailrace.monitor.alerts.sinks import alertname
from tailrace.monitor.metrics import METRICS
from tailrace.pipeline import Pipeline

NAME = re.compile(r"\btailrace_[a-z0-9_]+")
SELECTED = re.compile(r"(tailrace_[a-z0-9_]+)\{([^}]*)\}")


@pytest.fixture(scope="module")
def pipeline(pipelines_dir: Path) -> Pipeline:
    """A pipeline with a budget of its own."""
    [found] = load_pipelines(pipelines_dir / "faulted.py")
    return found


def rules_of(text: str) -> list[dict[str, Any]]:
    """Return the rules of a file."""
    document = json.loads("\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [rule for group in document["groups"] for rule in group["rules"]]


def promtool(tmp_path: Path, *arguments: str) -> str:
    """Run promtool in a folder; return what it says. Fails where it ends with an error."""
    program = find_program("promtool", "prometheus")
    done = subprocess.run([program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metric_of(name: str) -> str:
    """Return the metric that a series belongs to."""
    return name if name in METRICS else re.sub(r"_(bucket|sum|count)$", "", name)


def check_names(expression: str) -> None:
    """Fail where an expression names a metric or a label that there is not."""
    labels: set[str] = {"le"}
    for name in NAME.findall(expression):
        assert metric_of(name) in METRICS, name
        assert name in METRICS or METRICS[metric_of(name)].kind == "histogram", name
        labels |= set(METRICS[metric_of(name)].labels)
    for name, chosen in SELECTED.findall(expression):
        for label in re.findall(r"(\w+)(?:=~|=)", chosen):
            assert label in METRICS[metric_of(name)].labels, f"{name}: {label}"
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert set(re.split(r", *", grouped)) <= labels, expression


def test_rules_are_those_of_the_server(pipeline: Pipeline) -> None:
    """Every built-in alert has its rule, with its times, severity and runbook."""
    rules = {rule["alert"]: rule for rule in rules_of(prometheus_rules([pipeline]))}
    for rule in RULES:
        written = rules[alertname(rule.name)]
        assert (written["for"], written["keep_firing_for"]) == (f"{rule.for_s:g}s", f"{rule.clear_s:g}s")
        assert written["labels"]["severity"] == rule.severity
        assert written["annotations"]["runbook"].endswith(rule.runbook)
        check_names(written["expr"])


def test_rules_have_the_thresholds_of_the_pipeline(pipeline: Pipeline) -> None:
    """What is switched off has no rule, what is declared stands in it, and a pipeline without alerts has no group."""
    off = Alerts(
        p99_over=3.0,
        error_share=None,
        availability=None,
        cache_hit_share=None,
        stale_share=None,
        breaker=False,
        predictions=False,
        drift=False,
    )
    [rule] = rules_of(prometheus_rules([replace(pipeline, alerts=off)]))
    assert rule["alert"] == "TailraceLatency"
    assert f"> {3.0 * pipeline.budget.total_ns / 1e9:g} and" in rule["expr"]
    assert rules_of(prometheus_rules([replace(pipeline, alerts=None)])) == []


def test_promtool_takes_the_rules(pipeline: Pipeline, tmp_path: Path) -> None:
    """`promtool check rules` reads all of them."""
    (tmp_path / "rules.yml").write_text(prometheus_rules([pipeline]))
    assert f"{len(RULES)} rules found" in promtool(tmp_path, "check", "rules", "rules.yml")


def test_rules_fire_when_they_should_and_not_before(pipeline: Pipeline, tmp_path: Path) -> None:
    """`promtool test rules`: each rule fires for what it is there for, and none beside healthy traffic."""
    (tmp_path / "rules.yml").write_text(prometheus_rules([pipeline]))
    own = f'pipeline="{pipeline.name}"'
    bound_s = f"{2 * pipeline.budget.total_ns / 1e9:g}"
    faults = {
        "latency": [
            (f'tailrace_request_seconds_bucket{{{own},le="{bound_s}"}}', "0+0x60"),
            (f'tailrace_request_seconds_bucket{{{own},le="30"}}', "0+600x60"),
            (f'tailrace_request_seconds_bucket{{{own},le="+Inf"}}', "0+600x60"),
            (f"tailrace_request_seconds_count{{{own}}}", "0+600x60"),
        ],
        "errors": [(f'tailrace_requests_total{{{own},code="503"}}', "0+15x60")],
        "burn_fast": [(f'tailrace_requests_total{{{own},code="503"}}', "0+15x60")],
        "burn_slow": [(f'tailrace_requests_total{{{own},code="503"}}', "0+15x60")],
        "burn_medium": [(f'tailrace_requests_total{{{own},code="503"}}', "0+15x60")],
        "breaker": [(f"tailrace_store_breaker_open{{{own}}}", "1x60")],
        "stale": [
            (f'tailrace_feature_values_total{{{own},view="A",provenance="stale"}}', "0+20x60"),
            (f'tailrace_feature_values_total{{{own},view="A",provenance="fresh"}}', "0+600x60"),
        ],
        "predictions": [(f'tailrace_drift_deviating{{{own},kind="decision"}}', "1x60")],
        "drift": [(f'tailrace_drift_alarms{{{own},kind="feature"}}', "2x60")],
        "cache": [
            (f"tailrace_cache_hits_total{{{own}}}", "0+700x60"),
            (f"tailrace_cache_misses_total{{{own}}}", "0+300x60"),
        ],
    }
    healthy = (f'tailrace_requests_total{{{own},code="200"}}', "0+600x60")
    tests = []
    for name, series in {**faults, "": []}.items():
        tests.append(
            {
                "interval": "30s",
                "input_series": [{"series": each, "values": values} for each, values in [healthy, *series]],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{alertname(other)}",alertstate="firing"}})',
                        "eval_time": "25m",
                        "exp_samples": [{"labels": "{}", "value": 1}] if other == name else [],
                    }
                    for other in faults
                    if other == name or not {name, other} <= {"errors", "burn_fast", "burn_medium", "burn_slow"}
                ],
            }
        )
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "30s", "tests": tests}
    (tmp_path / "tests.yml").write_text(json.dumps(document))
    promtool(tmp_path, "test", "rules", "tests.yml")


@pytest.mark.slow
def test_rules_are_over_when_their_cause_is(pipeline: Pipeline, tmp_path: Path) -> None:
    """`promtool test rules`: a fault of twenty minutes fires each rule, which is over once its windows have gone by."""
    (tmp_path / "rules.yml").write_text(prometheus_rules([pipeline]))
    own = f'pipeline="{pipeline.name}"'
    bound_s = f"{2 * pipeline.budget.total_ns / 1e9:g}"

    def counted(name: str, labels: str, a_step: int, *, ends: bool = True) -> tuple[str, str]:
        after = f"{a_step * 40}+0xN" if ends else f"{a_step * 41}+{a_step}xN"
        return f"tailrace_{name}{{{own}{labels}}}", f"0+{a_step}x40 {after}"

    def gauge(name: str, labels: str = "") -> tuple[str, str]:
        return f"tailrace_{name}{{{own}{labels}}}", "1x40 0xN"

    errors = [counted("requests_total", ',code="503"', 15)]
    slow = [
        ("request_seconds_bucket", ',le="30"'),
        ("request_seconds_bucket", ',le="+Inf"'),
        ("request_seconds_count", ""),
    ]
    faults = {
        "latency": (
            24,
            [
                counted("request_seconds_bucket", f',le="{bound_s}"', 0),
                *(counted(name, labels, 600) for name, labels in slow),
            ],
        ),
        "errors": (28, errors),
        "burn_fast": (30, errors),
        "burn_medium": (52, errors),
        "burn_slow": (410, errors),
        "breaker": (22, [gauge("store_breaker_open")]),
        "stale": (
            33,
            [
                counted("feature_values_total", ',view="A",provenance="stale"', 20),
                counted("feature_values_total", ',view="A",provenance="fresh"', 600, ends=False),
            ],
        ),
        "cache": (44, [counted("cache_hits_total", "", 700, ends=False), counted("cache_misses_total", "", 300)]),
        "predictions": (23, [gauge("drift_deviating", ',kind="decision"')]),
        "drift": (23, [gauge("drift_alarms", ',kind="feature"')]),
    }
    assert set(faults) == {rule.name for rule in RULES}
    healthy = counted("requests_total", ',code="200"', 600, ends=False)
    tests = [
        {
            "interval": "30s",
            "input_series": [
                {"series": each, "values": values.replace("N", str(2 * (over - 20)))}
                for each, values in [healthy, *series]
            ],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alertname(name)}",alertstate="firing"}})',
                    "eval_time": f"{minute}m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if minute < over else [],
                }
                for minute in (20, over)
            ],
        }
        for name, (over, series) in faults.items()
    ]
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "30s", "tests": tests}
    (tmp_path / "tests.yml").write_text(json.dumps(document))
    promtool(tmp_path, "test", "rules", "tests.yml")


def test_dashboard_names_what_there_is(pipeline: Pipeline) -> None:
    """Every query names a metric of the table and labels that it has."""
    dashboard = json.loads(grafana_dashboard([pipeline.name]))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) >= len(PANELS) == len({panel["id"] for panel in dashboard["panels"]})
    for query in queries:
        assert NAME.search(query)
        check_names(query)
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), f"{panel['title']}: {label}"


def test_promtool_parses_the_dashboard(tmp_path: Path) -> None:
    """Prometheus' own parser reads every query."""
    queries = [query for panel in PANELS for query, _ in panel.queries]
    rules = [
        {"record": f"query:{place}", "expr": query.replace("$pipeline", ".*").replace("$__rate_interval", "5m")}
        for place, query in enumerate(queries)
    ]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(queries)} rules found" in promtool(tmp_path, "check", "rules", "rules.yml")


@pytest.mark.parametrize("kind", ["prometheus", "grafana"])
def test_export_is_a_command(kind: str, pipelines_dir: Path) -> None:
    """The command prints the whole file and nothing else."""
    done = CliRunner().invoke(app, ["export", kind, str(pipelines_dir / "faulted.py")])
    assert done.exit_code == 0
    assert done.stdout.rstrip().endswith("}")
    assert "faulted" in done.stdout
