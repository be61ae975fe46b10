"""Two servers behind a real HAProxy and a real nginx: restarted one after the other under load, they lose nothing."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from peers import find_program
from rolling import BALANCERS, Pair, count_failed, roll, start_balancer
from tailrace.loadtest.plan import LoadPlan
from tailrace.loadtest.report import LoadReport

pytestmark = pytest.mark.slow  # `make bench ONLY=balancers` does it ten times

RATE = 200.0
RESTARTS = 2
PRE_DRAIN_S = 3.5
"""HAProxy takes two to three seconds to see that a server is not ready."""
RESTART_S_MAX = 11.0


@dataclass
class Rolled:
    """What came of a load while both servers were restarted, by the name of its balancer; folder: has the logs."""

    reports: dict[str, LoadReport]
    folder: Path


def needs(name: str) -> pytest.MarkDecorator:
    """Return what skips a test where a balancer is not installed."""
    return pytest.mark.skipif(find_program(name) is None, reason=f"{name} is not installed")


@pytest.fixture(scope="module")
def rolled(pipelines_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Rolled:
    """Restart both servers once, with all the balancers there are in front of them."""
    folder = tmp_path_factory.mktemp("balancers")
    shutil.copytree(pipelines_dir / "models", folder / "models")
    (folder / "log.py").write_text((pipelines_dir / "log.py").read_text().replace('"50ms"', '"5s"'))
    names = [name for name in BALANCERS if find_program(name)]
    with ExitStack() as stack:
        pair = Pair(folder / "log.py", folder, PRE_DRAIN_S)
        pair.start(stack)
        plans = [
            LoadPlan(
                f"{start_balancer(stack, name, pair)}/v1/pipelines/log/predict",
                [b'{"amount": 1.0}'],
                rate=RATE,
                duration_s=RESTARTS * RESTART_S_MAX,
                arrival="poisson",
                depth_max=1,
            )
            for name in names
        ]
        reports = roll(pair, RESTARTS, plans, lambda number: None)
    return Rolled(dict(zip(names, reports, strict=True)), folder)


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in BALANCERS])
def test_rolling_restart_fails_no_request(rolled: Rolled, name: str) -> None:
    """Every request sent through a balancer while its servers are restarted in turn is answered 200."""
    report = rolled.reports[name]
    assert (count_failed(report), report.statuses) == (0, {200: report.shots})


@needs("haproxy")
def test_haproxy_takes_a_server_out_by_its_readiness(rolled: Rolled) -> None:
    """Health checks see the pre-drain, so that no request ever meets a server that refuses it."""
    log = (rolled.folder / "haproxy.log").read_text()
    assert log.count("is DOWN, reason: Layer7 wrong status, code: 503") == RESTARTS
    assert log.count("is UP, reason: Layer7 check passed, code: 200") >= RESTARTS


@needs("nginx")
def test_nginx_meets_no_fault_but_in_connecting(rolled: Rolled) -> None:
    """What it must send again was never sent: a connection is refused, or not taken, and none ends under a request."""
    faults = [line for line in (rolled.folder / "nginx-error.log").read_text().splitlines() if "[error]" in line]
    assert faults
    assert [line for line in faults if "while connecting to upstream" not in line] == []
