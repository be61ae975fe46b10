"""A number once given keeps its meaning, whatever becomes of the type; its file is never half there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto_types import Order
from tailrace.codecs.proto_form import message_forms
from tailrace.codecs.proto_lock import Lock, fitting, lock_path, locked, read_lock, write_lock
from tailrace.codecs.proto_text import package_of, proto_text
from tailrace.errors import SetupError
from tailrace.request.schema import Request


def request_of(**fields: Any) -> type[Request]:
    """Return a request type with these fields."""
    return msgspec.defstruct("Ask", list(fields.items()), bases=(Request,), kw_only=True, frozen=True, gc=False)  # type: ignore[return-value]


def after(*types: type[Request]) -> Lock:
    """Return the numbers after the export of each type in turn."""
    lock = None
    for each in types:
        lock = locked(message_forms(each), lock)
    assert lock is not None
    return lock


def test_field_that_is_gone_keeps_its_number_and_one_with_a_new_name_gets_another() -> None:
    """What an old caller sends is never read as something else."""
    lock = after(request_of(one=float, two=str, three=int), request_of(zero=bool, three=int, deux=str, one=float))
    ask = lock.messages["Ask"]
    assert {name: field.number for name, field in ask.fields.items()} == {"one": 1, "three": 3, "zero": 4, "deux": 5}
    assert ask.reserved == [2]
    assert "  reserved 2;" in proto_text("p", message_forms(request_of(one=float)), after_one(lock), ())


def after_one(lock: Lock) -> Lock:
    """Return the numbers where of a message with `two` gone only `one` is left."""
    ask = lock.messages["Ask"]
    return Lock({"Ask": msgspec.structs.replace(ask, fields={"one": ask.fields["one"]})})


def test_field_of_another_type_or_back_again_is_a_new_one() -> None:
    """The bytes of a float are no text; and what is reserved stays so."""
    lock = after(request_of(one=float), request_of(one=str), request_of(two=int), request_of(one=str, two=int))
    ask = lock.messages["Ask"]
    assert {name: field.number for name, field in ask.fields.items()} == {"one": 4, "two": 3}
    assert ask.reserved == [1, 2]


def test_text_of_an_enum_that_is_gone_keeps_its_number() -> None:
    """As a field does."""
    from typing import Literal

    lock = after(request_of(one=Literal["a", "b"]), request_of(one=Literal["b", "c"]))
    kept = lock.messages["Ask"].fields["one"]
    assert (kept.number, kept.values, kept.retired) == (1, {"b": 2, "c": 3}, [1])


names = st.sampled_from("abcdefgh")
asks = st.dictionaries(names, st.sampled_from([float, str, int, list[str]]), min_size=1)


@given(st.lists(asks, min_size=1, max_size=8))
def test_number_never_has_two_meanings(history: list[dict[str, Any]]) -> None:
    """Through any history of a type."""
    meaning: dict[int, tuple[str, str]] = {}
    lock = None
    for fields in history:
        forms = message_forms(request_of(**fields))
        lock = locked(forms, lock)
        assert locked(forms, lock) == lock
        ask = lock.messages["Ask"]
        assert not set(ask.reserved) & {field.number for field in ask.fields.values()}
        for name, field in ask.fields.items():
            assert meaning.setdefault(field.number, (name, field.type)) == (name, field.type)


def test_file_is_read_as_it_was_written_and_fits_only_its_types(tmp_path: Path) -> None:
    """A server that reads numbers by another type would read other fields."""
    path = lock_path(tmp_path, "shop")
    forms = message_forms(Order)
    assert fitting(forms, path) is read_lock(path) is None
    write_lock(locked(forms, None), path)
    assert fitting(forms, path) == locked(forms, None)
    assert [each.name for each in tmp_path.iterdir()] == ["shop.proto.lock"]
    with pytest.raises(SetupError, match="changed since"):
        fitting(message_forms(request_of(one=float)), path)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"\xff", b'{"messages":{},"format":2}', b'{"messages":{},"more":1}',
        b'{"messages":{"A":{"fields":{"a":{"number":1,"type":"bool"},"b":{"number":1,"type":"bool"}}}}}',
        b'{"messages":{"A":{"fields":{"a":{"number":1,"type":"bool"}},"reserved":[1]}}}',
        b'{"messages":{"A":{"fields":{"a":{"number":0,"type":"bool"}}}}}',
        b'{"messages":{"A":{"fields":{"a":{"number":2047,"type":"bool"}}}}}',
        b'{"messages":{"A":{"fields":{"a":{"number":1,"type":"enum","values":{"x":1,"y":1}}}}}}',
    ],
)  # fmt: skip
def test_file_that_contradicts_itself_is_refused(text: bytes, tmp_path: Path) -> None:
    """One that a merge has spoiled, say; numbers that are guessed would be others."""
    path = tmp_path / "p.proto.lock"
    path.write_bytes(text)
    with pytest.raises(SetupError, match="version control"):
        read_lock(path)


def test_write_that_fails_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing beside it."""
    path = tmp_path / "p.proto.lock"
    write_lock(Lock({}), path)

    def fail(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError):  # noqa: PT011 - whatever it says
        write_lock(after(request_of(one=float)), path)
    assert read_lock(path) == Lock({})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [Any, list[list[int]], list[int | None], int | str, tuple[int, str], dict[int, str]])
def test_type_without_a_message_is_refused_with_its_field(kind: Any) -> None:
    """At export, with what to do."""
    with pytest.raises(SetupError, match=r"Ask\.one"):
        message_forms(request_of(one=kind))


def test_names_that_a_message_cannot_tell_apart_are_refused() -> None:
    """Protoc would refuse the file."""
    with pytest.raises(SetupError, match="cannot tell"):
        message_forms(request_of(a_b=int, aB=int))


def test_package_is_an_identifier() -> None:
    """Whatever a pipeline is called."""
    assert [package_of(each) for each in ("fraud-eu", "2day", "ä")] == [
        "tailrace.fraud_eu", "tailrace.p_2day", "tailrace.p__",
    ]  # fmt: skip
