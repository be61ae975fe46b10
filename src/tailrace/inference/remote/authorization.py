"""The header Authorization of a remote model's requests, from the environment variable that its declaration names."""

from __future__ import annotations

import os

from tailrace.inference.remote.declaration import RemoteModel


class AuthorizationError(Exception):
    """The variable holds no header. next: what to do. Neither shows what it holds."""

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what)
        self.next = next_step


def read_authorization(model: RemoteModel) -> str | None:
    """Return the header's value; None where a model declares none. Raises AuthorizationError."""
    if model.authorization is None:
        return None
    value = os.environ.get(model.authorization)
    if not value:
        raise AuthorizationError(
            f"the environment variable {model.authorization} is not set", "set it to the whole header"
        )
    if not (value.isascii() and value.isprintable()):
        what = f"the environment variable {model.authorization} holds what no header can"
        raise AuthorizationError(what, "see that it has one line of ASCII")
    return value
