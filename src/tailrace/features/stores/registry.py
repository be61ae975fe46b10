"""Stores of others: what opens the URLs of a scheme that Tailrace has no store for. Filled by the pipeline's file."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tailrace.deadline import Clock
from tailrace.errors import StoreError

if TYPE_CHECKING:
    from tailrace.features.stores.protocol import OnlineStore

OpenStore = Callable[[str, Clock], "OnlineStore"]

OWN_SCHEMES: Final = frozenset({
    "lmdb", "memory", "dynamodb", "tier", "redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster",
    "rediss+cluster",
})  # fmt: skip

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]+")
_registered: dict[str, OpenStore] = {}


def register_store(scheme: str, opens: OpenStore) -> None:
    """Have the URLs of a scheme opened by a function, as in `acme://host/service`: it is given the URL and the clock.

    Call it in the file that declares the pipeline. The last one counts. Raises StoreError for a scheme that is none, or
    that Tailrace has a store for.
    """
    if not _SCHEME.fullmatch(scheme) or scheme in OWN_SCHEMES:
        what = "is one of Tailrace's own" if scheme in OWN_SCHEMES else "is no scheme of a URL"
        raise StoreError(f"{scheme!r} {what}", where="tr.register_store",
                         next='choose another, of small letters and digits: "acme"')  # fmt: skip
    _registered[scheme] = opens


def registered_store(scheme: str) -> OpenStore | None:
    """Return what opens the URLs of a scheme; None where nothing does."""
    return _registered.get(scheme)
