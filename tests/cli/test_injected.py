"""The variables of a platform, set for all that it runs: serving does not fail for what it cannot do with them."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tailrace.cli.serve import serve
from tailrace.server import companions, supervisor

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
COLLECTOR = "http://collector:4318"
app = typer.Typer()
app.command()(serve)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Return where the servers that were started send traces; none is started in truth."""
    found: list[str | None] = []

    def start(options: Any) -> int:
        found.append(options.traces)
        return 0

    monkeypatch.setattr(supervisor, "serve", start)
    monkeypatch.setattr(companions, "find_spec", lambda name: True)
    return found


def told(*arguments: str, **environment: str) -> str:
    """Return what the command says on stderr."""
    found = CliRunner().invoke(app, ["pipeline.py", *arguments], env=environment)
    assert found.exit_code == 0, found.output
    return found.stderr


def test_endpoint_of_the_environment_is_where_traces_are_sent(served: list[str | None]) -> None:
    """Unless the command line names another."""
    assert not told(**{ENDPOINT: COLLECTOR})
    assert not told("--traces", "http://other:4318", **{ENDPOINT: COLLECTOR, "OTEL_SDK_DISABLED": "true"})
    assert served == [COLLECTOR, "http://other:4318"]


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({ENDPOINT: "collector:4317"}, "no address"),
        ({ENDPOINT: COLLECTOR, "OTEL_EXPORTER_OTLP_HEADERS": "token"}, "header 1 cannot be read"),
        ({ENDPOINT: COLLECTOR, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "is for gRPC"),
        ({ENDPOINT: COLLECTOR, "OTEL_SDK_DISABLED": "TRUE"}, ""),
        ({ENDPOINT: COLLECTOR, "OTEL_TRACES_EXPORTER": "none"}, ""),
        ({ENDPOINT: ""}, ""),
    ],
)
def test_server_starts_without_traces_that_the_environment_asks_for_in_vain(
    served: list[str | None], environment: dict[str, str], why: str
) -> None:
    """And says why, where they are wanted."""
    said = told(**environment)
    assert served == [None]
    assert ("warning: no traces are sent: " in said and why in said) if why else not said


def test_server_starts_without_what_traces_need(served: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a platform alone asks for them: an image that is run there is not made for it."""
    monkeypatch.setattr(companions, "find_spec", lambda name: None)
    assert "pip install 'tailrace[tracing]'" in told(**{ENDPOINT: COLLECTOR})
    assert served == [None]


def test_what_the_command_line_asks_for_in_vain_is_an_error(served: list[str | None]) -> None:
    """A person has asked for it, and reads it."""
    found = CliRunner().invoke(app, ["pipeline.py", "--traces", "collector:4317"])
    assert found.exit_code == 1
    assert "no address" in str(found.exception)
    assert not served
