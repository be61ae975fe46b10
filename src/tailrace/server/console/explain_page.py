"""The page of one decision: what `tailrace explain` tells, for a person who looks on it, prints it or sends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from tailrace.server.console.explaining import Explaining
from tailrace.server.console.page import html_answer, policy_of, read_part
from tailrace.server.endpoint import Answer, Gate, Inquiry, Page


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
    return page.encode(), policy_of(style, script)


def _page_of(explaining: Explaining) -> Callable[[], Answer]:
    def answer() -> Answer:
        explaining.check()
        return html_answer(*explain_page())

    return answer
