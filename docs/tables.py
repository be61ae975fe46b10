"""Writes the tables of docs/reference that the code itself knows: `python docs/tables.py`. A test holds them current.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the text around it is written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import typer.main

from tailrace import errors
from tailrace.cli.main import app
from tailrace.monitor.metrics import METRICS
from tailrace.server.options import ServeOptions

REFERENCE: Final = Path(__file__).parent / "reference"
MARKED: Final = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def commands() -> dict[str, Any]:
    """Return the commands of the command line by name, in the order of its help; those of a group by both names."""
    return dict(_leaves(typer.main.get_command(app), ""))


def _leaves(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the commands of a group, and of the groups in it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table. A cell's pipes are escaped."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def flag_table(name: str) -> str:
    """Return a command's arguments and flags."""

    def rows() -> Iterator[list[str]]:
        for parameter in commands()[name].params:
            if parameter.param_type_name == "argument":
                many = "…" if parameter.nargs == -1 else ""
                shown, default = f"`{parameter.metavar.strip('{}')}`{many}", "required" if parameter.required else ""
            else:
                shown = ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
                default = required_or(parameter) if parameter.required else default_of(parameter)
            yield [shown, default, parameter.help or ""]

    return table(("flag", "default", "meaning"), rows())


def required_or(parameter: Any) -> str:
    """Return what is shown for a flag that must be given, or be in the environment."""
    return f"`${parameter.envvar}`, else required" if parameter.envvar else "required"


def default_of(parameter: Any) -> str:
    """Return a flag's default as it is shown."""
    if parameter.default is None or parameter.default is False or parameter.default in ([], ""):
        return f"`${parameter.envvar}`" if parameter.envvar else ""
    return f"`{parameter.default}`"


def settings_table() -> str:
    """Return every setting of a server: its default, its flag and what it means."""
    flags = {parameter.name: parameter for parameter in commands()["serve"].params}
    rows = []
    for field in msgspec.structs.fields(ServeOptions):
        flag = flags.get(field.name)
        default = "required" if field.default is msgspec.NODEFAULT else f"`{field.default!r}`"
        shown = "" if flag is None else f"`{flag.opts[0]}`" if flag.opts[0].startswith("-") else "`FILE`…"
        rows.append([f"`{field.name}`", default, shown, flag.help if flag is not None else ""])
    return table(("setting", "default", "flag", "meaning"), rows)


def metrics_table() -> str:
    """Return every metric of /metrics."""
    rows = (
        [f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help]
        for metric in METRICS.values()
    )
    return table(("metric", "type", "labels", "meaning"), rows)


def errors_table() -> str:
    """Return the tree of errors, each with its status."""

    def rows(kind: type[BaseException], depth: int) -> Iterator[list[str]]:
        is_serving = issubclass(kind, errors.ServingError)
        status = str(kind.status) if is_serving else ""  # type: ignore[attr-defined]
        slug = f"`urn:tailrace:{kind.title.lower().replace(' ', '-')}`" if is_serving else ""  # type: ignore[attr-defined]
        meaning = (kind.__doc__ or "").splitlines()[0]
        yield [f"{'· ' * depth}`{kind.__name__}`", status, slug, meaning]
        for child in kind.__subclasses__():
            if child.__module__ == errors.__name__:
                yield from rows(child, depth + 1)

    return table(("error", "status", "`type`", "meaning"), rows(errors.TailraceError, 0))


TABLES: Final[dict[str, Callable[[], str]]] = {
    "settings": settings_table,
    "metrics": metrics_table,
    "errors": errors_table,
    **{f"flags-{name.replace(' ', '-')}": lambda name=name: flag_table(name) for name in commands()},
}


def filled(text: str) -> str:
    """Return a page with its tables as the code has them now."""
    return MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", text)


def main() -> int:
    """Write every page of the reference anew; return how many changed."""
    changed = 0
    for path in sorted(REFERENCE.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            path.write_text(new, encoding="utf-8")
            changed += 1
            sys.stdout.write(f"wrote {path}\n")
    return changed


if __name__ == "__main__":
    main()
    sys.exit(0)
