"""The page of one decision in a real Chromium: what is shown of it, what hostile values do, which is nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("websockets")

from chromium import Chromium, chromium
from explaining_server import explained, printing
from serving import fetch, wait_for

pytestmark = pytest.mark.slow
HOSTILE = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    """One page of a browser."""
    with chromium() as page:
        yield page


def document(text: str, rows: int = 1) -> str:
    """Return an explanation in which every text is this one, of a request with so many rows."""
    feature = {
        "name": text, "value": text, "view": text, "provenance": text, "event_time": "2026-11-27T00:00:00Z",
        "age_s": 9e4, "is_redacted": False, "adds": 0.5,
    }  # fmt: skip
    number = {**feature, "name": "n", "value": 9_007_199_254_740_993, "adds": -0.25, "provenance": "stale"}
    secret = {**feature, "name": "card", "is_redacted": True, "adds": None}
    told: list[dict[str, Any]] = [
        {
            "row": row, "failed": False, "score": 0.75, "decision": text, "reasons": [text], "degraded": [text],
            "branches": {text: text}, "features": [feature, number, secret], "unexplained": text,
        }
        for row in range(rows)
    ]  # fmt: skip
    again = [
        {"row": row, "score": 0.5, "decision": text, "reasons": [], "is_equal": False,
         "changed": [{"name": text, "then": text, "now": 1.0}]}
        for row in range(rows)
    ]  # fmt: skip
    rescored = {"rows": again, "is_equal": False, "why": [text], "fault": ""}
    answered = {
        "pipeline": text, "release": text, "time": "2026-11-28T09:00:00Z", "files": [text], "copies": 2, "item": 0,
        "items": 1, "trace": text, "client": text, "slot": 0, "error": text, "coalesced": text, "answer": {text: text},
        "request": {text: text, "card": "xxxx", "id": 9_007_199_254_740_993}, "redacted": ["$.card"], "wait_us": 5,
        "layers": [{"layer": text, "took_us": 5_000, "budget_us": 2_000}], "whole_us": 9_000, "budget_us": 50_000,
        "models": [{"name": text, "version": text, "backend": text, "registered": ""}], "rows": told,
        "release_note": text, "replay": {"logged": rescored, "now": rescored, "store": text},
    }  # fmt: skip
    searched = {"log": text, "pipelines": [text], "files": 1, "rows": None, "drafts": 0, "first_hour": "",
                "last_hour": "", "passed_over": [[text, text]]}  # fmt: skip
    return json.dumps({"request_id": text, "searched": searched, "answered": [answered]})


def opened(page: Chromium, address: str, query: str = "id=r", width: int = 1280) -> Chromium:
    """Open the page, and wait until the decision is on it."""
    page.requests.clear()
    page.complaints.clear()
    page.open(f"{address}/console/explain?{query}", width=width)
    page.wait("performance.getEntriesByName('explained').length")
    return page


def test_hostile_values_are_shown_as_text(browser: Chromium) -> None:
    """Script in the request, a feature, a decision, a rule, an id is shown, and not run; nobody else is asked."""
    with explained("log", printing(document(HOSTILE))) as address:
        page = opened(browser, address, "id=%3Cscript%3Ewindow.hit%3D1%3C%2Fscript%3E&replay=1")
        shown = page.value("document.getElementById('found').textContent")
        assert shown.count(HOSTILE) > 15
        assert page.value("document.querySelectorAll('#found script, #found img').length") == 0
        assert page.value("window.hit") is None
        assert page.complaints == []
        assert {url.split("/")[2] for url in page.requests} <= {address.split("/")[2], ""}


def test_all_parts_are_there_and_numbers_are_whole(browser: Chromium) -> None:
    """Decision, request, times, features and both scores; an id of 17 digits is the one that was sent."""
    with explained("log", printing(document("plain", rows=4))) as address:
        page = opened(browser, address, "id=r&replay=1")
        shown = page.value("document.getElementById('found').textContent")
        for text in ("9007199254740993", "1 d 1 h", "differs: plain", "masked", "Scored again"):
            assert text in shown
        assert page.value("document.querySelectorAll('details.row').length") == 4
        assert page.value("document.querySelectorAll('.took.over').length") == 1
        assert page.value("document.getElementById('print').hidden") is False
        assert page.value("document.getElementById('again').hidden") is True


def test_button_scores_it_again(browser: Chromium) -> None:
    """It asks for the same request, replayed, and the address says so."""
    with explained("log", printing(document("plain"))) as address:
        page = opened(browser, address)
        assert page.value("document.getElementById('again').hidden") is False
        page.value("document.getElementById('again').click()")
        page.wait("performance.getEntriesByName('explained').length == 2")
        assert page.value("location.search") == "?id=r&replay=1"
        assert any(url.endswith("/console/explanation?id=r&replay=1") for url in page.requests)


def test_page_that_is_left_for_another_lets_that_be_explained(browser: Chromium, tmp_path: Path) -> None:
    """What the page before has asked for may still run: the server says that it is busy, and is asked again."""
    began = tmp_path / "began"
    code = "import pathlib, sys, time; at = pathlib.Path(sys.argv[1]); at.exists() or at.touch() or time.sleep(1.5)"
    command = (sys.executable, "-S", "-c", f"{code}; print({document('plain')!r})", str(began))
    with explained("log", command) as address, ThreadPoolExecutor(1) as another:
        asking = another.submit(fetch, f"{address}/console/explanation?id=r")
        wait_for(began.exists, 10)
        opened(browser, address)
        assert asking.result()[0] == 200
        assert sum("/console/explanation" in url for url in browser.requests) > 1


def test_what_is_not_found_says_where_it_was_sought(browser: Chromium) -> None:
    """Files and hours are told, and those that could not be read."""
    searched = {
        "log": "log", "pipelines": ["fraud"], "files": 3, "rows": 1200, "drafts": 1, "first_hour": "2026-11-28T09",
        "last_hour": "2026-11-28T10", "passed_over": [["fraud/a.parquet", "it is cut short"]],
    }  # fmt: skip
    with explained("log", printing(json.dumps({"request_id": "r", "searched": searched, "answered": []}))) as address:
        browser.open(f"{address}/console/explain?id=r")
        text = "(document.getElementById('said') || {textContent: ''}).textContent"
        said = browser.wait(f"(t => t.includes('not in the log') && t)({text})")
        assert "3 whole files of 1,200 rows and 1 still written" in said
        assert "fraud/a.parquet: it is cut short" in said


@pytest.mark.parametrize("width", [320, 390])
def test_phone_shows_each_feature_with_its_source(browser: Chromium, width: int) -> None:
    """On a phone nothing is cut off, where a value came from and how old it was is there, and no word is broken."""
    with explained("log", printing(document("prepaid"))) as address:
        page = opened(browser, address, "id=r&replay=1", width=width)
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        assert page.value(
            "[...document.querySelectorAll('.inputs td.source')].filter(e => e.offsetParent && e.innerText).length"
        )
        lines = (
            "(e => { const r = document.createRange(); r.selectNodeContents(e); return r.getClientRects().length; })"
        )
        assert page.value(f"[...document.querySelectorAll('.replay th, .replay .mono')].every(e => {lines}(e) < 2)")


def test_printed_page_has_no_buttons_and_a_white_ground(browser: Chromium) -> None:
    """A dark screen prints on white paper, with every row open."""
    with explained("log", printing(document("plain", rows=4))) as address:
        page = opened(browser, address)
        page.send(
            "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
        )
        try:
            assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
            assert page.value("getComputedStyle(document.getElementById('print').parentNode).display") == "none"
            page.send("Emulation.setDeviceMetricsOverride", width=680, height=960, deviceScaleFactor=1, mobile=False)
            assert page.value("getComputedStyle(document.querySelector('.inputs .source')).display") == "table-cell"
        finally:
            page.send("Emulation.setEmulatedMedia", media="", features=[])
