"""The runbooks, which alerts name: pages of the admin port, of the files that come with the package."""

from __future__ import annotations

import socket
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from tailrace.monitor.alerts.rules import RULES
from tailrace.server.endpoint import Answer, Page
from tailrace.server.options import ServeOptions

PATH: Final = "/runbooks"
_FOLDERS: Final = (Path(__file__).parents[1] / "runbooks", Path(__file__).parents[3] / "docs" / "runbooks")
"""In a package that is installed, and in a checkout."""
_HEADERS: Final = (
    b"Cache-Control: no-cache", b"X-Content-Type-Options: nosniff", b"Content-Security-Policy: default-src 'none'",
)  # fmt: skip


def runbook_pages() -> dict[bytes, Page]:
    """Return the pages by path. They are the same everywhere, and need no token: a link of a message has none."""
    return {f"{PATH}/{name}".encode(): Page(partial(_answer, name)) for name in {rule.runbook for rule in RULES}}


def runbooks_url(options: ServeOptions, address: tuple[str, int]) -> str:
    """Return where the runbooks are: where the options say, or at the admin port. address: its host and port."""
    if options.runbooks is not None:
        return options.runbooks.rstrip("/")
    host, port = address
    if ip_address(host).is_unspecified:
        host = socket.gethostname()
    elif ":" in host:
        host = f"[{host}]"
    return f"http{'s' if options.admin_tls else ''}://{host}:{port}{PATH}"


def _answer(name: str) -> Answer:
    return Answer(200, b"text/plain; charset=utf-8", _read(name), _HEADERS)


def _read(name: str) -> bytes:
    """Return a page as it is written, in Markdown."""
    return next(path.read_bytes() for folder in _FOLDERS if (path := folder / name).is_file())
