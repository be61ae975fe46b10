"""The commands of `tailrace models`, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tailrace.cli.models.adding import fetch, register
from tailrace.cli.models.changing import alias, delete, tag
from tailrace.cli.models.comparing import compare
from tailrace.cli.models.importing import import_model
from tailrace.cli.models.keeping import gc, verify
from tailrace.cli.models.listing import list_models, show
from tailrace.cli.models.whatif import whatif

COMMANDS: Final[dict[str, Callable[..., Any]]] = {
    "list": list_models,
    "show": show,
    "register": register,
    "import": import_model,
    "fetch": fetch,
    "compare": compare,
    "whatif": whatif,
    "alias": alias,
    "tag": tag,
    "delete": delete,
    "gc": gc,
    "verify": verify,
}
