"""The reference page and the document as they are served: made once, one file each, and nothing is asked elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tailrace.pipeline import Pipeline
from tailrace.server.endpoint import Answer, CallEndpoint, Page
from tailrace.server.http.key_gate import KeyGate
from tailrace.server.openapi.document import openapi_document

TEMPLATE: Final = Path(__file__).with_name("page.html")
PLACE: Final = "/*document*/"
POLICY: Final = (
    b"Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page loads nothing, and asks its own server alone."""
HEADERS: Final = (b"Cache-Control: no-cache", b"X-Content-Type-Options: nosniff")


def document_bytes(document: dict[str, Any]) -> bytes:
    """Return the document as it is written: JSON with two blanks a level."""
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"


def reference_page(document: dict[str, Any] | None) -> bytes:
    """Return the page that reads a document, which stands in it; nothing in the document can end its place.

    None: the page asks for a key, and then the server for the document.
    """
    text = msgspec.json.encode(document).decode().replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACE, text).encode()


def description_routes(
    pipelines: Sequence[Pipeline], array_max: int, log: Any, *, with_keys: bool = False, with_arrow: bool = False
) -> dict[bytes, dict[bytes, CallEndpoint | Page]]:
    """Return the routes that describe a server of these pipelines.

    array_max: requests in one call. with_keys: whether calls must show a key; so must who asks for the document, which
    names every pipeline. with_arrow: whether Arrow is spoken. None where the server cannot be described, which is
    logged: without its description it still decides.
    """
    try:
        document = openapi_document(pipelines, array_max=array_max, with_keys=with_keys, with_arrow=with_arrow)
        as_json = Answer(200, b"application/json", document_bytes(document), HEADERS)
        shown = reference_page(None if with_keys else document)
        as_page = Answer(200, b"text/html; charset=utf-8", shown, (*HEADERS, POLICY))
    except Exception as error:  # whatever a type of the user's own raises
        log.warning("the API cannot be described", error=repr(error), exc_info=error)
        return {}
    return {
        b"/openapi.json": {b"GET": Page(lambda: as_json, [KeyGate()] if with_keys else [], is_open=not with_keys)},
        b"/docs": {b"GET": Page(lambda: as_page)},
    }
