"""A server whose model is a version in a registry serves its copy, whatever becomes of the alias and the registry."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from serving import fetch, serving, wait_for

from pipelines.model_graphs import linear
from tailrace.release.registry.notes import set_alias
from tailrace.release.registry.registering import register
from tailrace.release.registry.registry import open_registry

PIPELINE = """
import tailrace as tr

class Payment(tr.Request):
    amount: float

class Decision(tr.Response):
    score: float

pay = tr.Pipeline(name="pay", request=Payment, response=Decision, features=[Payment.amount],
                  model=tr.Model("pay", version="fraud@production"), budget=tr.Budget("500ms"))
"""


@pytest.mark.slow
def test_registry_deleted_while_serving_changes_nothing(tmp_path: Path) -> None:
    """The alias moves, then the registry goes, then a worker is killed: its successor serves the same release."""
    for name, weight in (("one", 0.001), ("two", 0.002)):
        linear(tmp_path, name, {"amount": weight})
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    registry = open_registry(str(tmp_path / "registry"), create=True)
    for name in ("one", "two"):
        register(registry, tmp_path / name, "fraud")
    set_alias(registry, "production", "fraud", 1)
    with serving(tmp_path / "log", tmp_path / "pipeline.py", "--registry", registry.url) as server:
        before = server.ask("pay", {"amount": 500.0}, {"X-Trace": "1"})
        digest = registry.version("fraud", 1).record.digest
        told = f'"registered":"fraud@1","registered_digest":"{digest}"'
        assert told.encode() in fetch(f"{server.admin}/status")[2]
        set_alias(registry, "production", "fraud", 2)
        shutil.rmtree(registry.url)
        (worker,) = server.workers()
        os.kill(worker["pid"], signal.SIGKILL)
        wait_for(lambda: [each for each in server.workers() if each["pid"] not in {0, None, worker["pid"]}], 30)
        after = wait_for(
            lambda: (answer := server.ask("pay", {"amount": 500.0}, {"X-Trace": "1"})).status == 200 and answer, 30
        )
        assert after.body == before.body
        assert after.headers["x-release"] == before.headers["x-release"]
