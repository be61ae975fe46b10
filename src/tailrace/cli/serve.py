"""`tailrace serve`: serve every pipeline that the files declare. Its options are the settings of a server."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import typer

from tailrace.cli.filled import filled
from tailrace.cli.injected import traces_to
from tailrace.server.options import ServeOptions


def serve(**settings: Any) -> None:
    """Serve every pipeline that the files declare, until SIGTERM or Ctrl-C.

    What is served is pinned at the start: the modules of the files' folders and their models are copied, and a worker
    that is replaced loads the copies. What changes there later is served after the next start.

    A pipeline NAME answers POST /v1/pipelines/NAME/predict, with one JSON object or an array of them. /livez, /readyz
    stand on the same port, /metrics, /status on the admin port. SIGTERM drains, after --pre-drain-s, and exits with 0.
    A second one ends at once.

    For example:

        tailrace serve examples/fraud/pipeline.py --workers 2
    """
    given: dict[str, Any] = {
        name: tuple(map(str, value)) if isinstance(value, list) else value
        for name, value in settings.items()
        if value is not None
    }

    from tailrace.server.supervisor import serve as serve_until_stopped

    raise typer.Exit(serve_until_stopped(ServeOptions(**given)))


def parameters() -> Iterator[inspect.Parameter]:
    """Yield each setting of a server as a parameter from which an option of the command line is made."""
    types, group = get_type_hints(ServeOptions, include_extras=True), None
    for field in msgspec.structs.fields(ServeOptions):
        kind, meta = get_args(types[field.name])
        shown = meta.extra or {}
        group = shown.get("group", group)
        is_needed = field.default is msgspec.NODEFAULT
        default: Any = inspect.Parameter.empty if is_needed else field.default
        if get_origin(kind) is tuple:
            kind = list[Path] if shown.get("metavar") == "FILE" else list[str]
            default = default if is_needed else None
        option: Any = (
            typer.Argument(metavar=shown["metavar"], help=meta.description)
            if is_needed
            else typer.Option(
                shown.get("flag", "--" + field.name.replace("_", "-")),
                help=meta.description,
                metavar=shown.get("metavar"),
                envvar=shown.get("env"),
                rich_help_panel=group,
                callback=_callback(shown),
            )
        )
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
        )


def _callback(shown: dict[str, str]) -> Callable[..., Any] | None:
    """Return what looks at the value of an option, as its variable asks for."""
    if "emptied" in shown:
        return filled(shown["env"], shown["emptied"])
    return traces_to if "injected" in shown else None


_PARAMETERS = list(parameters())
serve.__signature__ = inspect.Signature(_PARAMETERS)  # type: ignore[attr-defined]
serve.__annotations__ = {each.name: each.annotation for each in _PARAMETERS}
