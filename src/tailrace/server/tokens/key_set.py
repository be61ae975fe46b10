"""Where the keys of signers come from: a file that is looked at, or a URL that is asked again and again on a thread.

What was read last is kept where a file or a URL fails. A URL is asked every five minutes, sooner where a token names a
key that is not known (it may be new), but never twice within ten seconds, whoever sends such tokens.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Final
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import structlog

from tailrace.core_share import give_way
from tailrace.errors import SetupError
from tailrace.server.tokens.signers import SET_BYTES_MAX, Signer, read_signers

REFRESH_S: Final = 300.0
PAUSE_S: Final = 10.0
"""Between two tries, whatever is asked for."""
ANSWER_S_MAX: Final = 5.0
NICE: Final = 10
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


def is_url(source: str) -> bool:
    """Say whether a source is a URL."""
    return "://" in source


def check_source(source: str) -> None:
    """Raise SetupError for a source that is none; a file is read, a URL is not asked."""
    if not is_url(source):
        read_signers(_content_of(source), source)
        return
    parts = urlsplit(source)
    if parts.username or parts.password:  # the URL stands in the log
        raise SetupError("a URL with a password", where="jwks", next="name one that needs none")
    if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in _LOOPBACK):
        raise SetupError("who answers there cannot be known", where=source, next="name an https:// URL, or a file")


class KeySet:
    """The signers of a source by their ids, as they are now; empty where a URL has not answered yet."""

    def __init__(self, source: str) -> None:
        check_source(source)
        self.signers: Mapping[str, Signer] = {}
        self._source = source
        self._log = structlog.get_logger()
        self._fresh: Mapping[str, Signer] | None = None
        self._stamp = self._failed = _stamp_of(source)
        self._wanted, self._tried, self._closed = threading.Event(), threading.Event(), threading.Event()
        if is_url(source):
            threading.Thread(target=self._ask_on, name="signers", daemon=True).start()
        else:
            self.signers = read_signers(_content_of(source), source)

    def wait(self, wait_s: float) -> None:
        """Wait for the first answer of a URL, or the first failure."""
        if is_url(self._source):
            self._tried.wait(wait_s)
            self.look()

    def look(self) -> bool:
        """Once a second: take in what has come; return whether that is another set."""
        if not is_url(self._source):
            self._look_at_file()
        fresh, self._fresh = self._fresh, None
        if fresh is None or _texts(fresh) == _texts(self.signers):
            return False
        self.signers = fresh
        self._log.info("the keys of signers were read", source=self._source, keys=len(fresh))
        return True

    def want(self) -> None:
        """Have a URL asked soon: a token names a key that is not known."""
        self._wanted.set()

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()
        self._wanted.set()

    def _look_at_file(self) -> None:
        stamp = _stamp_of(self._source)
        if stamp == self._stamp:
            return
        if self._try(is_told=stamp != self._failed):
            self._stamp = stamp
        self._failed = stamp

    def _try(self, *, is_told: bool = True) -> bool:
        """Read the source; return whether that went well. What was read before is kept else, which the log is told."""
        try:
            content = _fetched(self._source) if is_url(self._source) else _content_of(self._source)
            self._fresh = read_signers(content, self._source)
        except SetupError as error:
            if is_told:
                self._log.error("the keys of signers are as they were", error=str(error))
            return False
        return True

    def _ask_on(self) -> None:
        """Ask a URL, now and again. Runs in the thread."""
        give_way(NICE)
        while not self._closed.is_set():
            went_well = self._try()
            self._tried.set()
            self._closed.wait(PAUSE_S)
            if went_well:
                self._wanted.wait(REFRESH_S - PAUSE_S)
            self._wanted.clear()


class _NoRedirect(HTTPRedirectHandler):
    """Follows nobody elsewhere."""

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> None:
        """Refuse."""
        raise URLError(f"it answers {code}")


def _fetched(url: str) -> bytes:
    """Return what a URL answers. Raises SetupError."""
    end_s = time.monotonic() + ANSWER_S_MAX
    try:
        with build_opener(_NoRedirect).open(
            Request(url, headers={"Accept": "application/json"}), timeout=ANSWER_S_MAX
        ) as answer:
            content = bytearray()
            while len(content) <= SET_BYTES_MAX and (part := answer.read1(65_536)):
                content += part
                if time.monotonic() > end_s:
                    raise TimeoutError(f"it takes over {ANSWER_S_MAX:g} s")
    except (OSError, HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, URLError) else error
        raise SetupError(
            f"the keys of signers cannot be had: {cause}", where=url, next="look who answers there"
        ) from None
    return bytes(content)


def _texts(signers: Mapping[str, Signer]) -> dict[str, tuple[bytes, tuple[str, ...]]]:
    """Return what tells a set from another one."""
    return {number: (signer.text, signer.algorithms) for number, signer in signers.items()}


def _content_of(file: str) -> bytes:
    try:
        with Path(file).open("rb") as opened:
            return opened.read(SET_BYTES_MAX + 1)
    except OSError as error:
        what = f"the keys of signers cannot be read: {error.strerror or error}"
        raise SetupError(what, where=file, next="name a JSON Web Key Set, or its URL") from None


def _stamp_of(file: str) -> tuple[int, int, int]:
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino
