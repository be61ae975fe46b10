"""A model as its server describes it. No I/O."""

from __future__ import annotations

import msgspec


class Tensor(msgspec.Struct, frozen=True):
    """An input or output as its server describes it. dtype: ours, or theirs where we have none. -1 in a shape: any.

    is_optional: it may be left out, where the server says so.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_optional: bool = False


class Described(msgspec.Struct, frozen=True):
    """A model as its server describes it; empty where it says nothing. version: where it has a single one.

    silence: why it could not be asked, where that is so; "" where it was.
    """

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    is_binary: bool = False
    version: str = ""
    silence: str = ""
