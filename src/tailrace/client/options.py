"""How a client behaves: one frozen type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

from tailrace.deadline import parse_duration
from tailrace.errors import SetupError

BUDGET_NS_MAX: Final = parse_duration("1h")
CODECS: Final = ("json", "msgpack")
CHOICES: Final = ("nearest", "turns")
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?")
_OURS: Final = {"host", "content-length", "content-type", "transfer-encoding", "x-budget-ms", "connection", "accept",
                "accept-encoding", "expect"}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a client behaves.

    budget: a call's, from its first byte to its answer, repetitions included. codec: how requests and answers are
    written. headers: with each call, a key for example. choose: of several endpoints "nearest", the one that answers
    soonest, or "turns". repeatable: that a call may be computed twice, so that one whose connection was lost is sent
    again. hedge: whether a call that has waited for the p95 is sent a second time; needs repeatable. retry_share,
    hedge_share: of the calls, on the long run. connections_max: to one endpoint. answer_bytes_max: of one answer's
    body. ca_file: of the authorities that https:// servers are believed by, in PEM; None takes the system's.
    client_cert, client_key: who the client says it is there, in PEM.
    Raises SetupError for what cannot be meant.
    """

    budget: str = "1s"
    codec: Literal["json", "msgpack"] = "json"
    headers: Mapping[str, str] = field(default_factory=dict)
    choose: Literal["nearest", "turns"] = "nearest"
    repeatable: bool = False
    hedge: bool = False
    retry_share: float = 0.1
    hedge_share: float = 0.05
    connections_max: int = 64
    answer_bytes_max: int = 64 << 20
    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None

    def __post_init__(self) -> None:
        budget_ns_of(self.budget)
        for name, word, words in (("codec", self.codec, CODECS), ("choose", self.choose, CHOICES)):
            if word not in words:
                raise SetupError(f"there is no {word!r}", where=name, next=f"take one of {', '.join(words)}")
        if self.hedge and not self.repeatable:
            raise SetupError(
                "a hedged call is computed twice", where="hedge", next="say repeatable=True, if the pipelines bear that"
            )
        for name, share, most in (("retry_share", self.retry_share, 1.0), ("hedge_share", self.hedge_share, 0.05)):
            if not 0 <= share <= most:
                raise SetupError(f"{share!r} is no share of the calls", where=name, next=f"take 0 to {most}")
        for name, count in (("connections_max", self.connections_max), ("answer_bytes_max", self.answer_bytes_max)):
            if count < 1:
                raise SetupError(f"{count!r} is too few", where=name, next="take 1 or more")
        if (self.client_cert is None) != (self.client_key is None):
            missing = "client_key" if self.client_key is None else "client_cert"
            raise SetupError("a certificate and its key go together", where=missing, next="name both files, or neither")
        check_headers(self.headers)

    def __repr__(self) -> str:
        """Tell the headers by name alone: there are keys among them."""
        return f"Options(budget={self.budget!r}, codec={self.codec!r}, headers={sorted(self.headers)}, …)"


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise SetupError for headers that cannot be sent, or that the client writes itself."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):  # the value may be a key: it is not told
            raise SetupError("not a header", where=f"headers[{name!r}]", next="take printable ASCII on one line")
        if name.lower() in _OURS:
            raise SetupError("the client writes it itself", where=f"headers[{name!r}]", next="leave it out")


def lines_of(headers: Mapping[str, str]) -> str:
    """Return headers as they are sent."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


@lru_cache(256)
def budget_ns_of(budget: str) -> int:
    """Return the nanoseconds of a budget such as "50ms". Raises SetupError for none, and for over an hour."""
    try:
        budget_ns = parse_duration(budget)
    except ValueError as error:
        raise SetupError(str(error), where="budget") from None
    if not 0 < budget_ns <= BUDGET_NS_MAX:
        raise SetupError(f"{budget!r} is no budget of a call", where="budget", next="give it some, at most '1h'")
    return budget_ns
