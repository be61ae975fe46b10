"""Tailrace serves machine-learning decisions in real time, inside a latency budget.

import tailrace as tr

What is declared with is in api.py, and imported when it is first asked for: a client of a server needs none of it, and
a server that starts gives way to others before it imports all.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tailrace.version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from tailrace.api import *  # noqa: F403
    from tailrace.api import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        """Return a name of api.py (PEP 562), and have all of them stand here from now on."""
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module 'tailrace' has no attribute {name!r}")
        api = import_module("tailrace.api")
        globals().update({each: getattr(api, each) for each in (*api.__all__, "__all__")})
        if name not in globals():
            raise AttributeError(f"module 'tailrace' has no attribute {name!r}")
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *import_module("tailrace.api").__all__})
