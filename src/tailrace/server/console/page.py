"""The console's pages: one file of HTML that holds all it needs, the data it opens with, and the feed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from tailrace.batch import JSON
from tailrace.server.console.console import Console
from tailrace.server.endpoint import Answer, Feed, Gate, Page

HERE: Final = Path(__file__).parent
NO_STORE: Final = b"Cache-Control: no-store"
HARMLESS: Final = (b"X-Content-Type-Options: nosniff", b"Referrer-Policy: no-referrer")


def console_pages(console: Console, gates: Sequence[Gate]) -> dict[bytes, Page]:
    """Return the pages by path. gates: of what holds figures; the page itself holds none, and asks for the token."""
    return {
        b"/": Page(lambda: Answer(302, b"text/plain", b"/console\n", (b"Location: /console", NO_STORE))),
        b"/console": Page(_page_answer),
        b"/console/state": Page(
            lambda: Answer(200, JSON, console.whole(), (NO_STORE, *HARMLESS), compresses=True), gates
        ),
        b"/console/events": Feed(console.listeners.enter, gates),
    }


@lru_cache(maxsize=1)
def page_bytes() -> tuple[bytes, bytes]:
    """Return the page, and the policy that lets it run what stands in it and nothing else."""
    style = read_part("uplot/uPlot.min.css") + read_part("console.css")
    scripts = (
        read_part("uplot/uPlot.iife.min.js"),
        read_part("charts.js"),
        "".join(read_part(name) for name in ("parts.js", "panels.js", "observed.js", "console.js")),
    )
    page = read_part("page.html").replace("/*style*/", style)
    for number, script in enumerate(scripts):
        page = page.replace(f"/*script {number}*/", script)
    policy = policy_of(style, *scripts)
    return page.replace("/*policy*/", policy.decode()).encode(), policy  # a moment that is kept comes without a head


def _page_answer() -> Answer:
    return html_answer(*page_bytes())


def html_answer(page: bytes, policy: bytes) -> Answer:
    """Return a page as it is answered, with its policy, see `policy_of`: it is framed by no other page."""
    held = b"Content-Security-Policy: " + policy + b"; frame-ancestors 'none'"
    return Answer(
        200, b"text/html; charset=utf-8", page, (b"Cache-Control: no-cache", *HARMLESS, held), compresses=True
    )


def policy_of(style: str, *scripts: str) -> bytes:
    """Return the policy that lets a page run what stands in it, and nothing else."""
    hashes = b" ".join(map(_hash_of, scripts))
    return (
        b"default-src 'none'; script-src " + hashes + b"; style-src " + _hash_of(style) + b"; "
        b"connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def read_part(name: str) -> str:
    """Return a file that stands beside this one."""
    return (HERE / name).read_text(encoding="utf-8")


def _hash_of(text: str) -> bytes:
    """Return a text as a policy names it."""
    return b"'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()) + b"'"
