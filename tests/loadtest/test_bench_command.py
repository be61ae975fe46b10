"""`tailrace bench`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner, Result

from tailrace.cli.bench import bench
from tailrace.errors import SetupError

if TYPE_CHECKING:
    from conftest import RunningServer


def run_bench(*words: str) -> Result:
    """Return what `tailrace bench` prints and exits with."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(bench)
    return CliRunner().invoke(app, list(words))


def test_bench_json_is_what_a_program_reads(server: RunningServer, tmp_path: Path) -> None:
    """`--json` prints the report and nothing else; a run within a wide budget exits with 0."""
    bodies = tmp_path / "bodies.jsonl"
    bodies.write_text('{"a": 1}\n\n{"a": 2}\n')
    words = ["--rate", "200", "--duration", "1s", "--connections", "4", "--bodies", str(bodies), "--budget", "60s"]
    result = run_bench(f"{server.url}/echo", *words, "--arrival", "poisson", "-H", "X-Budget-Ms: 20", "--json")
    content = json.loads(result.stdout)
    assert result.exit_code == 0
    assert content["valid"] is True
    assert content["shots"] == content["answered"] == 200
    assert content["statuses"] == {"200": 200}
    assert content["arrival"] == "poisson"


def test_bench_of_an_invalid_run_exits_with_one(server: RunningServer) -> None:
    """A run that says nothing about the server is told as such, and fails a script."""
    result = run_bench(f"{server.url}/echo", "--rate", "100", "--duration", "500ms", "--data", "{}", "--budget", "1us")
    assert result.exit_code == 1
    assert "INVALID" in result.stdout
    assert "p99.9" in result.stdout


@pytest.mark.parametrize("path", ["refuse", "missing", "chunked"])
def test_bench_without_a_good_answer_exits_with_one(server: RunningServer, path: str) -> None:
    """A run that was only refused, sent to a wrong path or not understood says so, and fails a script."""
    words = ["--rate", "50", "--duration", "500ms", "--connections", "25", "--data", "{}", "--budget", "60s"]
    told = run_bench(f"{server.url}/{path}", *words)
    assert told.exit_code == 1
    assert "NO GOOD ANSWER" in told.stdout
    assert run_bench(f"{server.url}/{path}", *words, "--json").exit_code == 1


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["--duration", "ten"], "--duration"),
        (["--budget", "5"], "--budget"),
        (["--arrival", "uniform"], "--arrival"),
        (["--header", "no colon"], "--header"),
        (["--data", "{}", "--body", "x.json"], "--data, --body, --bodies"),
        (["--body", "/nonexistent/body.json"], "/nonexistent/body.json"),
        (["--bodies", "/dev/null"], "/dev/null"),
    ],
)
def test_bench_with_a_wrong_option_says_which(words: list[str], where: str) -> None:
    """Each wrong option is told with its name and what to write instead."""
    result = run_bench("http://127.0.0.1:1/", *words)
    assert isinstance(result.exception, SetupError)
    assert result.exception.where == where
    assert result.exception.next
