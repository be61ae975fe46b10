"""The page of one decision: what `tailrace explain` tells, for a person who looks on it, prints it or sends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from tailrace.server.console.explaining import Explaining
from tailrace.server.console.page import HARMLESS, hash_of, read_part
from tailrace.server.endpoint import Answer, Gate, Inquiry, Page

NO_CACHE: Final = b"Cache-Control: no-cache"


def explain_pages(explaining: Explaining, gates: Sequence[Gate]) -> dict[bytes, Page]:
    """Return the pages by path. The page holds nothing of a request; it asks for that, behind the gates."""
    return {
        b"/console/explain": Page(_page_of(explaining)),
        b"/console/explanation": Inquiry(explaining.enter, gates),
    }


@lru_cache(maxsize=1)
def explain_page() -> tuple[bytes, bytes]:
    """Return the page, and the policy that lets it run what stands in it and nothing else."""
    style, script = read_part("console.css") + read_part("explain.css"), read_part("explain.js")
    page = read_part("explain.html").replace("/*style*/", style).replace("/*script*/", script)
    policy = (
        b"Content-Security-Policy: default-src 'none'; script-src " + hash_of(script) + b"; style-src "
        + hash_of(style) + b"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'"
    )  # fmt: skip
    return page.encode(), policy


def _page_of(explaining: Explaining) -> Callable[[], Answer]:
    def answer() -> Answer:
        explaining.check()
        page, policy = explain_page()
        return Answer(200, b"text/html; charset=utf-8", page, (NO_CACHE, *HARMLESS, policy), compresses=True)

    return answer
