"""What is redacted is looked for in values of each kind that a request may have."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
import pytest

import tailrace as tr
from tailrace.monitor.redacting import Redacting, redacted_fields, schema_that_redacts
from tailrace.request.masking import Masking

Secret = Annotated[str, tr.REDACTED]


class Card(msgspec.Struct):
    """A card."""

    number: Secret
    kind: str = "visa"


class Named(NamedTuple):
    """A card as a tuple with names."""

    number: Secret
    kind: str = "visa"


class AsArray(msgspec.Struct, array_like=True):
    """A card that is written as an array."""

    number: Secret
    kind: str = "visa"


SHAPES: dict[str, tuple[Any, Any]] = {
    "member": (Card, Card("4111")),
    "list": (list[Card], [Card("4111")]),
    "tuple": (tuple[Card, int], (Card("4111"), 1)),
    "named tuple": (Named, Named("4111")),
    "as an array": (AsArray, AsArray("4111")),
    "within tuples": (tuple[int, tuple[AsArray, int]], (1, (AsArray("4111"), 2))),
    "names of members": (dict[Secret, int], {"4111": 1}),
    "members": (dict[str, Card], {"one": Card("4111")}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_secret_is_masked_in_each_kind_of_value(shape: str) -> None:
    """A field that is marked is neither in the request as it is kept, nor a feature, wherever in a value it stands."""
    kind, value = SHAPES[shape]
    asking: Any = type("Asking", (tr.Request,), {"__annotations__": {"card": kind, "amount": float}})
    schema = schema_that_redacts(asking)
    assert schema is not None
    masked = Redacting(schema).mask(msgspec.json.encode(asking(card=value, amount=2.5)))
    assert b"4111" not in masked
    assert b'"amount":2.5' in masked
    assert redacted_fields(asking) == {"card"}


def test_names_of_one_length_stay_apart() -> None:
    """Members whose names are masked are as many as they were, and their paths are told."""
    schema = msgspec.json.schema(dict[Secret, int])
    paths: list[str] = []
    masked = Masking(schema).mask({"4111": 1, "4222": 2}, schema, "$", paths)
    assert masked == {"xxxx": 1, "xxxxx": 2}
    assert paths == ["$.xxxx", "$.xxxxx"]


def test_items_that_a_type_does_not_name_are_masked() -> None:
    """What stands behind the items that a type has is masked, as a misspelt member is."""
    schema = msgspec.json.schema(AsArray)
    assert Masking(schema).mask(["4111", "visa", "4111"], schema, "$", []) == ["xxxx", "visa", "xxxx"]
