"""Remembered heads. A client repeats its head but for the values that change, so what was parsed once is recognised.

A head is remembered as a form: the bytes that stay, and the places of the values that vary. The body's length always
varies; any other value does if it was seen to change from one request of a connection to the next (a trace id, a
request id), unless the server acts on it; on a budget it acts with each call (hurried.py). What fits a form is the same
head with other values:

    POST /v1/pipelines/fraud/predict HTTP/1.1⏎Host: a⏎Content-Length: 97⏎traceparent: 00-4bf9…-01⏎⏎
    |------------------- stays -------------------------------------|  |-- stays --|          |stays

A value that varies holds visible ASCII and blanks alone, in as many bytes as it had, so it can neither end its line nor
move another. Whatever fits no form goes through the parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hmac import compare_digest
from operator import itemgetter
from typing import Any, Final

from msgspec.structs import replace

from tailrace.errors import ServingError
from tailrace.server.endpoint import CallEndpoint
from tailrace.server.http.head import BUDGET, Head
from tailrace.server.http.hurried import HurriedEndpoint

HEAD_BYTES_MAX: Final = 4_096
"""A longer head is not remembered."""
FORMS_MAX: Final = 1_024
"""Forms remembered by one server; the oldest makes room. A connection keeps the one it used last."""
FORMS_PER_SIZE_MAX: Final = 8
VARYING_MAX: Final = 32
"""Names of headers whose values are known to vary."""

WHOLES_MAX: Final = 32

_LETTERS: Final = bytes(ord("a") if 0x20 <= byte < 0x7F else ord(" ") for byte in range(256))
"""Turns visible ASCII and blanks into letters, and nothing else."""

_ACTED_ON: Final = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect", b"accept-encoding",
     b"accept", b"content-encoding", b"content-type", b"authorization", b"x-trace", b"proxy-connection",
     b"keep-alive", b"te", b"trailer", b"x-priority", b"x-api-key", b"inference-header-content-length")
)  # fmt: skip
"""Headers that the server acts on, or another server on the way might: their values are part of what stays."""

_LENGTH: Final = b"content-length"


class HeadForm:
    """A head that was read once, to be recognised with other values.

    size: its bytes. varies: gives, of what was received, the values that vary beside the length, as one; None where
    none do. parts: gives the parts of the head that stay and the digits of its length. wholes: of a whole request of so
    many bytes, how the head begins it where `varies` is None, else what `parts` gives. told: where the headers of
    `TOLD` are that vary. values: of all headers that may come to vary, by name.
    """

    __slots__ = ("head", "parts", "size", "stays", "told", "values", "varies", "wholes")

    def __init__(
        self, raw: bytes, head: Head, places: dict[bytes, slice], values: dict[bytes, bytes], body_bytes_max: int
    ) -> None:
        """Remember a head. places: of the values that vary, ascending, by header."""
        cuts = list(places.values())
        stays = list(map(slice, [0, *(cut.stop for cut in cuts)], [*(cut.start for cut in cuts), len(raw)]))
        length = places.get(_LENGTH, slice(0, 0))
        others = [place for name, place in places.items() if name != _LENGTH]
        self.size = len(raw)
        self.told = {name: places[name] for name in head.told or () if name in places}
        self.head = head
        self.parts: Any = itemgetter(*stays, length)
        self.stays = tuple(raw[stay] for stay in stays)
        self.varies: Callable[[bytes], bytes] | None = None
        if others:
            self.varies = itemgetter(others[0]) if len(others) == 1 else Joined(others)
        self.values = values
        digits = length.stop - length.start
        self.wholes = Wholes(self.stays, self.size, digits, body_bytes_max if digits else 0, as_parts=bool(others))

    def stays_in(self, raw: bytes) -> bool:
        """Say whether a head of the same size has what stays, in a time that does not tell how much: a key is in it.

        Only another connection's form is asked: a connection's own holds the key that it has sent itself.
        """
        return compare_digest(b"".join(self.parts(raw)[:-1]), b"".join(self.stays))

    def body_bytes(self, raw: bytes) -> int:
        """Return how long the body is of a request whose head `raw` fits this form; -1 where it does not."""
        *stays, digits = self.parts(raw)
        if tuple(stays) != self.stays or (self.varies is not None and not are_visible(self.varies(raw))):
            return -1
        if not digits:
            return 0
        return int(digits) if digits.isdigit() else -1


class Wholes(dict[int, bytes | tuple[bytes, ...]]):
    """By the bytes of a whole request of one form: its head, or the head's parts; () where no request can be so long.

    No bytes begin with (), and no head has () for its parts. Made as they are asked for, and kept up to `WHOLES_MAX`: a
    client's bodies have few lengths.
    """

    __slots__ = ("_as_parts", "_body_bytes_max", "_digits", "_size", "_stays")

    def __init__(
        self, stays: tuple[bytes, ...], size: int, digits: int, body_bytes_max: int, *, as_parts: bool
    ) -> None:
        super().__init__()
        self._stays = stays
        self._size = size
        self._digits = digits
        self._body_bytes_max = body_bytes_max
        self._as_parts = as_parts

    def __missing__(self, whole_bytes: int) -> bytes | tuple[bytes, ...]:
        """Return what a request of so many bytes has."""
        body_bytes = whole_bytes - self._size
        length = b"%d" % body_bytes if self._digits else b""
        if not 0 <= body_bytes <= self._body_bytes_max or len(length) != self._digits:
            return ()
        if len(self) == WHOLES_MAX:
            self.clear()
        self[whole_bytes] = whole = (*self._stays, length) if self._as_parts else length.join(self._stays)
        return whole


class Joined:
    """Takes several values out of what was received, one behind the other."""

    __slots__ = ("_take",)

    def __init__(self, places: Sequence[slice]) -> None:
        self._take: Any = itemgetter(*places)

    def __call__(self, data: bytes) -> bytes:
        """Return the values."""
        return b"".join(self._take(data))


def are_visible(values: bytes) -> bool:
    """Say whether values hold nothing but visible ASCII and blanks. 0.13 µs; a third of taking those out of them."""
    return values.translate(_LETTERS).isalnum()


class HeadMemory:
    """The forms that a server remembers, and the names of the headers that vary.

    body_bytes_max: of a request. count_failure: is called for a call that is refused for what its form has not seen.
    """

    def __init__(
        self,
        body_bytes_max: int,
        count_failure: Callable[[type[ServingError]], None] = lambda kind: None,
        forms_max: int = FORMS_MAX,
    ) -> None:
        self._forms_max = forms_max
        self._body_bytes_max = body_bytes_max
        self._count_failure = count_failure
        self._by_size: dict[int, list[HeadForm]] = {}
        self._by_age: dict[HeadForm, None] = {}
        self._varying: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[HeadForm]:
        return iter(self._by_age)

    def find(self, raw: bytes) -> tuple[HeadForm | None, int]:
        """Return the form that a head fits, and how long its body is; None for a head to be parsed."""
        for form in self._by_size.get(len(raw), ()):
            if form.head.caller is not None and not form.stays_in(raw):
                continue
            if 0 <= (body_bytes := form.body_bytes(raw)) <= self._body_bytes_max:
                return form, body_bytes
        return None, -1

    def remember(
        self, raw: bytes, head: Head, headers: Sequence[tuple[bytes, bytes]], last: HeadForm | None
    ) -> HeadForm | None:
        """Return the form of a head that was read, None for one that is better read each time.

        raw: its bytes. headers: as they were parsed. last: the form of the connection's last head.
        """
        fields = dict(headers)
        if len(raw) > HEAD_BYTES_MAX or len(fields) < len(headers):
            return None
        places = _places(raw, headers)
        if places is None:
            return None
        values = {name: value for name, value in fields.items() if name not in _ACTED_ON}
        if last is not None:
            changed = {name for name, value in last.values.items() if values.get(name, value) != value}
            if len(self._varying | changed) > VARYING_MAX:
                self._varying.clear()  # or junk that one client changes would stand in the way of all others' for good
            self._varying |= set(sorted(changed)[:VARYING_MAX])
            found, _ = self.find(raw)
            if found is not None and found is not last:
                return found  # that another connection's head has left, which this one can share
        cut = {name: place for name, place in places.items() if name == _LENGTH or name in self._varying}
        if BUDGET in cut and isinstance(head.endpoint, CallEndpoint):
            head = replace(head, endpoint=HurriedEndpoint(head.endpoint, self._count_failure))
        form = HeadForm(raw, head, cut, values, self._body_bytes_max)
        if form.body_bytes(raw) < 0:
            return None  # a value has other bytes than may vary
        self._keep(form)
        return form

    def clear(self) -> None:
        """Forget all forms."""
        self._by_size.clear()
        self._by_age.clear()

    def _keep(self, form: HeadForm) -> None:
        """Remember a form, in the place of the oldest one where there are too many, of its size or of all."""
        forms = self._by_size.setdefault(form.size, [])
        forms.insert(0, form)
        self._by_age[form] = None
        if len(forms) > FORMS_PER_SIZE_MAX:
            self._forget(forms[-1])
        elif len(self) > self._forms_max:
            self._forget(next(iter(self)))

    def _forget(self, form: HeadForm) -> None:
        """Forget one form."""
        del self._by_age[form]
        forms = self._by_size[form.size]
        forms.remove(form)
        if not forms:
            del self._by_size[form.size]


def _places(raw: bytes, headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, slice] | None:
    """Return the place of each header's value; None for a head in which it is not plain to see."""
    line, *lines = raw[:-4].split(b"\r\n")
    at = len(line) + 2
    if raw.count(b"\n") != len(lines) + 2 or len(lines) != len(headers) or raw[0] <= 0x20:
        return None
    places: dict[bytes, slice] = {}
    for text, (name, value) in zip(lines, headers, strict=True):
        given, colon, rest = text.partition(b":")
        begin = at + len(given) + 1 + len(rest) - len(rest.lstrip(b" \t"))
        if given.lower() != name or not colon or raw[begin : begin + len(value)] != value:
            return None
        if value:
            places[name] = slice(begin, begin + len(value))
        at += len(text) + 2
    return places
