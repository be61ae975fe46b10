"""Options that name files of keys: a variable of theirs that is set and empty would take a guard off in silence."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tailrace.errors import SetupError


def filled(variable: str, so: str) -> Callable[[Any], Any]:
    """Return the callback of such an option. variable: that it is read from. so: what would be so without a value.

    A secret that was not mounted, or a name that was misspelt, makes a variable that is set and empty.
    """

    def check(value: Any) -> Any:
        """Return the value of the option. Raises SetupError where there is none, and its variable is set and empty."""
        if not value and os.environ.get(variable) == "":
            raise SetupError(f"{variable} is set and empty: {so}", where=variable, next="name a file, or unset it")
        return value

    return check
