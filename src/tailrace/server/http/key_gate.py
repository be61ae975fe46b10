"""The gate of pages that name pipelines: who reads them must have a key, where calls must."""

from __future__ import annotations

from typing import cast

from tailrace.batch import Call
from tailrace.errors import ServingError, UnauthorizedError
from tailrace.server.http.outgoing import HttpCall


class KeyGate:
    """Lets those pass who have shown a key, whatever it opens, for as long as it is valid."""

    def refusal(self, call: Call) -> ServingError | None:
        """Return why a call may not pass."""
        head = cast(HttpCall, call).head
        if head is None or head.caller is None:
            return UnauthorizedError("this needs a key", next="send one, as X-API-Key: KEY")
        return head.caller.fault(None)
