"""Built-in alerts of a real server under real traffic: what fails, and what takes too long, is told with its cause."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from serving import Server, fetch, load, serving, wait_for

LIMIT_S = 60.0


def firing(server: Server) -> dict[str, Any]:
    """Return what fires now, by the alert."""
    alerts = json.loads(fetch(f"{server.admin}/alerts")[2])
    return {each["alert"]: each for each in alerts if each["state"] == "firing"}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_calls_that_fail_are_told_and_degraded_ones_are_not(tmp_path: Path, pipelines_dir: Path) -> None:
    """One call of fifty has no score, which is a 5xx; one that a constant answers for is degraded, and no error."""
    bodies = [json.dumps({"amount": amount}).encode() for amount in [1.5] * 49 + [-1.0]]
    with serving(tmp_path / "log", pipelines_dir / "log.py") as server:
        plain, degraded = (server.predict_url(name) for name in ("log", "log_with_fallback"))
        with (
            load(plain, bodies, rate=100, duration_s=50, connections=8, keep_bodies=False) as failing,
            load(degraded, bodies, rate=100, duration_s=50, connections=8, keep_bodies=False) as answered,
        ):
            told = wait_for(lambda: firing(server).get("errors"), LIMIT_S)
            assert told["pipeline"] == "log"
            assert told["value"] == pytest.approx(0.02, abs=0.005)
            assert "answers of 5 min are a 5xx, 0.001 may be" in told["cause"]
        assert set(failing.result().statuses) >= {200, 500}
        assert set(answered.result().statuses) == {200}
        assert not [each for each in firing(server).values() if each["pipeline"] == "log_with_fallback"]
