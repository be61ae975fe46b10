"""`tailrace check`, through the command line: what it prints and the code it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tailrace.cli.main import app
from tailrace.deadline import LAYERS


def run_check(*arguments: str) -> tuple[int, str, str]:
    """Return the exit code and what was printed on both streams."""
    done = CliRunner().invoke(app, ["check", *arguments], env={"COLUMNS": "120"})
    return done.exit_code, done.stdout, done.stderr


def test_check_tells_budget_and_what_fills_each_input(pipelines_dir: Path) -> None:
    """The report has every layer with its budget and a measured p99, the buffer, and each input beside its source."""
    code, out, _ = run_check(str(pipelines_dir / "payment.py"), "--json")
    (report,) = json.loads(out)
    assert (code, report["ok"], report["pipeline"]) == (0, True, "payment")
    assert [layer["layer"] for layer in report["layers"]] == list(LAYERS)
    assert all(layer["p99_ns"] >= layer["p50_ns"] > 0 for layer in report["layers"])
    assert report["buffer_ns"] == report["budget_ns"] - sum(layer["budget_ns"] for layer in report["layers"])
    sources = {each["input"]: each["from"] for each in report["inputs"]}
    assert sources["amount"] == "request field"
    assert sources["CustomerProfile.avg_amount"] == "view, materialised"
    assert sources["amount_ratio"] == "on demand, computed"


def test_check_prints_tables_and_what_computes_the_model(pipelines_dir: Path) -> None:
    """A person sees the same: the budget table with its buffer, the inputs, the kernel."""
    code, out, _ = run_check(str(pipelines_dir / "payment.py"))
    assert code == 0
    for text in (*LAYERS, "buffer", "whole", "CustomerProfile.avg_amount", "The model is computed by"):
        assert text in out


def test_check_tells_every_mistake_at_once(pipelines_dir: Path, tmp_path: Path) -> None:
    """Three mistakes in one file are three problems with what, where and next, and the exit code is 1."""
    text = (pipelines_dir / "payment.py").read_text()
    assert 'key="customer_id"' in text
    (tmp_path / "models").symlink_to(pipelines_dir / "models")
    broken = text.replace('key="customer_id"', 'key="customer"').replace("reasons: list[str]", "reason: list[str]")
    (tmp_path / "broken.py").write_text(broken)
    code, out, _ = run_check(str(tmp_path / "broken.py"), "--json")
    (report,) = json.loads(out)
    assert (code, report["ok"]) == (1, False)
    told = " ".join(problem["where"] for problem in report["problems"])
    assert "features.CustomerProfile" in told
    assert "response Decision.reason" in told
    assert all(problem["what"] and problem["where"] and problem["next"] for problem in report["problems"])
    code, _, err = run_check(str(tmp_path / "broken.py"))
    assert code == 1
    assert f"has {len(report['problems'])} mistakes" in err


@pytest.mark.parametrize(("total", "warned"), [("10ms", True), ("40ms", False)])
def test_check_warns_of_a_buffer_under_a_tenth(pipelines_dir: Path, tmp_path: Path, total: str, warned: bool) -> None:
    """A budget that the layers use up nearly whole is served, with a warning."""
    (tmp_path / "models").symlink_to(pipelines_dir / "models")
    text = (pipelines_dir / "heavy.py").read_text()
    assert 'tr.Budget("400ms", inference="100ms")' in text
    inference = "9.5ms"
    text = text.replace('tr.Budget("400ms", inference="100ms")', f'tr.Budget("{total}", inference="{inference}")')
    (tmp_path / "heavy.py").write_text(text)
    code, out, _ = run_check(str(tmp_path / "heavy.py"))
    assert code == 0
    assert ("the buffer is" in out) is warned
