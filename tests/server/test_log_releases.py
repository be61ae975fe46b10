"""A server's log keeps the releases that it names, over restarts with other sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import serving, wait_for
from test_observer import FILE, LIMIT_S, ask, lines

from tailrace.offline.explanation.releases import OpenedRelease, find_release

pytestmark = pytest.mark.slow


def test_release_of_a_logged_decision_is_there_after_others_were_served(tmp_path: Path) -> None:
    """It is whole, and opens as what it was; a release that was served without a log is gone."""
    file, log, kept = tmp_path / "ask.py", tmp_path / "log", tmp_path / "kept"
    served = []
    for budget, options in (("500ms", ("--log", str(log))), ("600ms", ()), ("700ms", ())):
        file.write_text(FILE.replace("500ms", budget))
        with serving(tmp_path / f"out-{budget}", file, "--releases", str(kept), *options) as server:
            ask(server, 0, 1)
            served.append(server.workers()[0]["release"])
            if options:
                wait_for(lambda server=server: server.metric("tailrace_predictions_logged_total") == 1, LIMIT_S)
    assert {line["release"] for line in lines(log)} == {served[0]}
    found = find_release(served[0], [kept])
    assert isinstance(found, OpenedRelease)
    assert found.pipelines["ask"].budget.total_ns == 500_000_000
    assert isinstance(find_release(served[1], [kept]), str)
