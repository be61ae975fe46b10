"""Which codec a caller has, by what it says of its body and of the answer."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto_types import Decision, numbers_of
from tailrace.codecs.offer import Offer, preferred
from tailrace.codecs.protobuf import ProtobufCodec
from tailrace.errors import UnsupportedTypeError
from tailrace.request.schema import Request


class Payment(Request):
    amount: float


OFFER = Offer(Payment, array_max=5)
ARROW = b"application/vnd.apache.arrow.stream"


@pytest.mark.parametrize(
    ("content_type", "accept", "reads", "writes"),
    [
        (b"", b"", b"json", b"application/json"),
        (b"application/json", b"*/*", b"json", b"application/json"),
        (b"application/x-www-form-urlencoded", b"*/*", b"json", b"application/json"),
        (b"application/msgpack", b"", b"msgpack", b"application/msgpack"),
        (b"Application/X-MsgPack; v=5", b"*/*", b"msgpack", b"application/x-msgpack"),
        (b"application/vnd.msgpack", b"text/html", b"msgpack", b"application/vnd.msgpack"),
        (b"application/msgpack", b"application/json", b"msgpack", b"application/json"),
        (b"application/json", b"application/msgpack", b"json", b"application/msgpack"),
        (b"", b"application/json;q=0.5, application/msgpack", b"json", b"application/msgpack"),
        (b"", b"application/json, application/msgpack;q=0.9", b"json", b"application/json"),
        (b"", b"application/msgpack;q=0", b"json", b"application/json"),
    ],
)
def test_codec_is_what_the_caller_says(content_type: bytes, accept: bytes, reads: bytes, writes: bytes) -> None:
    """A body of an unknown type is JSON; an answer is what is accepted first, else what was sent."""
    codec = OFFER.find(content_type, accept) or OFFER.usual
    body = b'{"amount":1.5}' if reads == b"json" else msgspec.msgpack.encode({"amount": 1.5})
    assert codec.decode(body).amount == 1.5
    assert codec.content_type == writes
    encode = msgspec.json.encode if writes == b"application/json" else msgspec.msgpack.encode
    assert codec.encode_each([Payment(amount=2.5)]) == [codec.encode(Payment(amount=2.5))] == [encode({"amount": 2.5})]
    assert OFFER.find(content_type, accept) is OFFER.find(content_type, accept)


@given(st.binary(max_size=200))
def test_any_accept_can_be_read(accept: bytes) -> None:
    """What says nothing that is known leaves the caller what it sends."""
    assert all(each == each.strip().lower() for each in preferred(accept))
    assert OFFER.find(b"", accept) is None or b"msgpack" in accept.lower()


def test_more_codecs_are_found_by_their_type() -> None:
    """A pipeline whose numbers are kept speaks Protocol Buffers; of one without, its caller is told what is missing."""
    codec = ProtobufCodec(Payment, Decision, numbers_of(Payment, Decision), array_max=5)
    offer = Offer(Payment, array_max=5, more=[codec])
    assert offer.find(b"application/x-protobuf", b"*/*") is codec
    for name, missing in ((b"application/x-protobuf", "export proto"), (ARROW, "--arrow")):
        with pytest.raises(UnsupportedTypeError) as told:
            OFFER.find(name, b"*/*")
        assert missing in told.value.next
    mixed = offer.find(b"application/json", b"application/x-protobuf")
    assert mixed is not None
    assert mixed.decode(b'{"amount":1.5}').amount == 1.5
    assert mixed.content_type == codec.content_type
