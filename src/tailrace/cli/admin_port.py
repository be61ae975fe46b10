"""Asking the admin port of a server that runs, by its pages."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import typer

from tailrace.errors import SetupError

TIMEOUT_S: Final = 5.0

Url = Annotated[str, typer.Argument(metavar="URL", help="The server's admin port, as http://127.0.0.1:8081.")]
Token = Annotated[
    str | None, typer.Option(metavar="TOKEN", envvar="TAILRACE_ADMIN_TOKEN", help="Bearer token of the admin port.")
]


def opened(url: str, path: str, token: str | None) -> Any:
    """Ask for a page, and return its answer to read. Raises SetupError where nobody answers, or not with this."""
    import urllib.error
    import urllib.request

    where = (url if "://" in url else f"http://{url}").rstrip("/") + path
    try:
        request = urllib.request.Request(where, headers={"Authorization": f"Bearer {token}"} if token else {})
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            next_step = "give --token" if error.code == 401 else "name the admin port, which the server's log tells"
            raise SetupError(f"it answers {error.code}", where=where, next=next_step) from None
    except (OSError, ValueError) as error:
        raise SetupError(
            f"nobody answers: {getattr(error, 'reason', error)}", where=where,
            next="name the admin port, which the server's log tells as `admin`",
        ) from None  # fmt: skip


def read_page(url: str, path: str, token: str | None) -> Any:
    """Return the JSON of a page. Raises SetupError."""
    try:
        with opened(url, path, token) as answer:
            return json.loads(answer.read())
    except (OSError, ValueError) as error:  # it ends in the middle, or is another server's
        raise SetupError(
            f"it cannot be read: {error}", where=url.rstrip("/") + path,
            next="name the admin port, which the server's log tells as `admin`",
        ) from None  # fmt: skip
