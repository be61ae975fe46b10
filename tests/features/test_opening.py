"""Opening a store by its URL: what is wrong with one is told, a password never."""

from __future__ import annotations

import pytest

from tailrace.deadline import MonotonicClock
from tailrace.errors import StoreError
from tailrace.features.stores import registry
from tailrace.features.stores.memory import MemoryStore
from tailrace.features.stores.opening import open_store, open_writer, store_identity

WRONG = [
    "postgres://host/db", "lmdb:", "", "redis://host:notaport", "redis://host/name", "redis://a:1,b:2/0",
    "redis+sentinel://host:1", "redis+sentinel://host:1/", "redis+sentinel://host:x/features/0",
    "redis+sentinel://host:1/features/name", "redis+cluster://host:1/3", "redis+cluster://host:x", "redis+cluster://a..b",
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_url_of_no_store_is_an_error(text: str) -> None:
    """The message says what may be written instead, to a reader and to a writer alike."""
    for opening in (lambda: open_store(text, MonotonicClock()), lambda: open_writer(text)):
        with pytest.raises(StoreError) as caught:
            opening()
        assert caught.value.next


@pytest.mark.parametrize(
    "text",
    ["redis://user:secret@host:notaport", "rediss://:secret@h/0?ssl_ca_certs=/missing", "ftp://u:secret@h",
     "redis+sentinel://:secret@h:1,i:2", "redis+cluster://u:secret@h:1,i:x/", "rediss+cluster://u:secret@h?ssl_ca_certs=/x",
     "redis://user:secret/secret@host", "redis://user:1/secret@host", "redis:secret@host", "Rediz://u:secret/secret@h",
     "redis://user:1?secret=secret@host", "redis://host?password=secret@secret", "redis://:secret?secret@host",
     "tier:redis://:secret|secret@h|dynamodb://tab", "tier:redis://:secret|secret@h", "tier:redis:secret@h|redis://i|j",
     "tier:redis://:p@h|rediz://:secret|secret@i", "feast+redis://:secret?secret@h/0?project=x",
     "redis+cluster://u:secret/secret@host", "redis+sentinel://u:secret/secret@host/features"],
)  # fmt: skip
def test_error_does_not_tell_the_password(text: str) -> None:
    """A URL's password stands in no message."""
    with pytest.raises(StoreError) as caught:
        open_store(text, MonotonicClock())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("redis://user:pa/ss@host", "redis://host"), ("redis:s3cret@host", "redis:host"), ("Rediz://u:pa/ss@h", "Rediz://h"),
     ("tier:redis://:pa|ss@h|dynamodb://tab", "tier:redis://h|dynamodb://tab"), ("redis://u:p@h:x/1?a=b", "redis://h:x/1"),
     ("redis://h:x/0?password=a@b", "redis://…")],
)  # fmt: skip
def test_error_tells_where_without_the_password(text: str, shown: str) -> None:
    """What is behind the last @, or nothing where that may be an option's."""
    with pytest.raises(StoreError) as caught:
        open_store(text, MonotonicClock())
    assert caught.value.where == shown


@pytest.mark.parametrize(
    "text",
    ["redis://h/0?db=3", "redis://h?password=p", "rediss://h?ssl_cert_reqs=none", "redis://h?ssl_ca_certs=/x", "redis://h?db",
     "redis://h?db=", "redis+cluster://h?db=0", "redis+sentinel://h/features?socket_timeout=1",
     "feast+redis://h/0?project=x&db=3"],
)  # fmt: skip
def test_option_that_is_not_known_is_refused(text: str) -> None:
    """The writer would follow it and the reader not: by a reader, a writer, and whoever asks which store it is."""
    for opening in (lambda: open_store(text, MonotonicClock()), lambda: open_writer(text)):
        with pytest.raises(StoreError):
            opening()
    if not text.startswith("feast"):
        with pytest.raises(StoreError):
            store_identity(text)


@pytest.mark.parametrize("text", ["tier:acme+x://h|redis://h", "tier:redis://h|acme+x://h"])
def test_registered_store_is_no_part_of_a_tier(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is filled elsewhere: the tier's writer could remove no copies."""
    monkeypatch.setitem(registry._registered, "acme+x", lambda url, clock: MemoryStore({}))
    with pytest.raises(StoreError, match="no part of a tier"):
        open_store(text, MonotonicClock())


@pytest.mark.parametrize(
    ("one", "other"),
    [("lmdb:/tmp/./a", "/tmp/a"), ("redis://h:6379/0", "redis://h/"), ("redis://u:p@h:6379/0", "redis://h:6379/0"),
     ("redis+cluster://a:1,b:2/", "redis+cluster://b:2,a:1"), ("redis+sentinel://a,b/features", "redis+sentinel://b:26379,a/features/0")],
)  # fmt: skip
def test_urls_of_one_store_have_one_identity(one: str, other: str) -> None:
    """However a URL is written, it is the same store."""
    assert store_identity(one) == store_identity(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("lmdb:/tmp/a", "lmdb:/tmp/b"), ("redis://h/0", "redis://h/1"), ("redis://h", "rediss://h"),
     ("memory:", "memory:a"),
     ("redis://a:1", "redis+cluster://a:1"), ("redis+sentinel://a/features/0", "redis+sentinel://a/other/0")],
)  # fmt: skip
def test_urls_of_two_stores_have_two_identities(one: str, other: str) -> None:
    """Another database, service or kind is another store."""
    assert store_identity(one) != store_identity(other)
