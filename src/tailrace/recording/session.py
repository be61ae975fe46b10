"""Recording as it is asked for: a proxy that stands until enough calls are kept, or the time is over."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from tailrace.errors import SetupError
from tailrace.recording.condition import Wanted
from tailrace.recording.file import RecordedCall
from tailrace.recording.place import Place
from tailrace.recording.proxy import Proxy
from tailrace.recording.redaction import Redaction

KEPT_BYTES_MAX: Final = 64 << 20
"""Of all calls together, with their answers."""
DOCUMENT_S: Final = 10.0
DOCUMENT_BYTES_MAX: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """When recording ends: after so many calls or seconds, whichever is first."""

    calls: int
    seconds: float


def redaction_of(url: str, key: str | None, *, keep_raw: bool, ca_file: str | None = None) -> Redaction:
    """Return what a server's document says is to be redacted. key: that it asks for. ca_file: see `Place`.

    keep_raw: without a document nothing is. Raises SetupError where there is none, or the server is not there.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{url.rstrip('/')}/openapi.json", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=DOCUMENT_S, context=Place.of(url, ca_file).tls) as answer:
            document: dict[str, Any] = json.loads(answer.read(DOCUMENT_BYTES_MAX))
    except urllib.error.HTTPError as error:
        error.close()
        if keep_raw:
            return Redaction({}, keep_raw=True)
        what = f"the server does not say what is to be redacted: /openapi.json is answered {error.code}"
        raise SetupError(what, where=url, next="give its --key; or --raw, which keeps bodies as they are") from None
    except (OSError, ValueError) as error:
        what = f"cannot be reached: {getattr(error, 'reason', error)}"
        raise SetupError(what, where=url, next="start it, and write http://HOST:PORT") from None
    return Redaction(document, keep_raw=keep_raw)


async def record(
    url: str,
    listen: tuple[str, int],
    wanted: Wanted,
    redaction: Redaction,
    limits: Limits,
    *,
    on_listening: Callable[[str], None] = lambda address: None,
    on_call: Callable[[int], None] = lambda calls: None,
    ca_file: str | None = None,
) -> list[RecordedCall]:
    """Return the calls that passed a proxy before a server, and were wanted, until a limit or a signal.

    on_listening: is told where calls are to be sent; on_call: how many are kept. ca_file: see `Place`. Raises
    SetupError.
    """
    calls: list[RecordedCall] = []
    done = asyncio.Event()
    kept_bytes = 0

    def take(call: RecordedCall) -> None:
        nonlocal kept_bytes
        if done.is_set():
            return
        calls.append(call)
        kept_bytes += len(call.head) + len(call.body or b"") + len(call.answer_head) + len(call.answer or b"")
        on_call(len(calls))
        if len(calls) >= limits.calls or kept_bytes >= KEPT_BYTES_MAX:
            done.set()

    proxy = Proxy(Place.of(url, ca_file), wanted, redaction, take)
    host, port = await proxy.listen(*listen)
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError, RuntimeError):  # on another thread there are none
            asyncio.get_running_loop().add_signal_handler(number, done.set)
    on_listening(f"http://{host}:{port}")
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), limits.seconds)
    await proxy.close()
    return calls
