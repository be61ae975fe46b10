"""`tailrace status` of a real server: while it is well, while its model fails, and when it is gone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from serving import serving, wait_for

from tailrace.cli.main import app
from tailrace.cli.status import DEGRADED, HEALTHY, UNREACHABLE

pytestmark = pytest.mark.slow

FILE = """
import tailrace as tr


class Ask(tr.Request):
    amount: float


class Answer(tr.Response):
    score: float


class Picky:
    def predict(self, feeds):
        if feeds["features"][0, 0] < 0:
            raise ValueError("it is less than nothing")
        return feeds["features"][:, 0].astype(float)


ask = tr.Pipeline(
    name="ask", request=Ask, response=Answer, features=[Ask.amount], model=tr.PythonModel("picky", Picky),
    budget=tr.Budget("5s"),
)
"""
LIMIT_S = 20.0


def status(admin: str) -> tuple[int, str]:
    """Return how the command ends, and the first line that it prints."""
    found = CliRunner().invoke(app, ["status", admin])
    return found.exit_code, found.output.partition("\n")[0].strip()


def test_exit_code_follows_the_server(tmp_path: Path) -> None:
    """0 while it is well; 1 while calls fail, with the cause; 2 when it is gone."""
    file = tmp_path / "ask.py"
    file.write_text(FILE)
    with serving(tmp_path / "out", file, "--observe") as server:
        assert server.ask("ask", {"amount": 1}).status == 200
        wait_for(lambda: status(server.admin)[0] == HEALTHY, LIMIT_S)
        for _ in range(10):
            assert server.ask("ask", {"amount": -1}).status == 500
        code, told = wait_for(lambda: (found := status(server.admin))[0] == DEGRADED and found, LIMIT_S)
        assert code == DEGRADED
        assert told.startswith("Failing")
        admin = server.admin
    assert status(admin)[0] == UNREACHABLE
