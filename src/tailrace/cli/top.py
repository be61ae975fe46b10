"""`tailrace top`: the console in a terminal, once a second."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tailrace.cli.admin_port import Token, Url, opened, read_page
from tailrace.cli.printing import VERDICT_STYLES, AsJson, figures_table, plain, print_json
from tailrace.deadline import LAYERS
from tailrace.errors import SetupError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

RETRY_S: Final = 2.0
POINTS_MAX: Final = 60
BARS: Final = " ▁▂▃▄▅▆▇█"
TRACK: Final = 24
SLOW_MAX: Final = 5
SERIES_MAX: Final = 5
ID_WIDTH: Final = 36
"""Of a request's id, where the terminal has 80 columns: a UUID has so many, and longer ones are folded."""
NOT_OBSERVED: Final = {
    "off": "slow requests and drift: serve with --observe or --log DIR",
    "silent": "slow requests and drift: the observer does not answer; it is started anew",
}


def top(
    url: Url,
    token: Token = None,
    once: Annotated[bool, typer.Option("--once", help="Show the state once, and leave.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how a server is doing, once a second: what the console at /console shows, in a terminal.

    With --json the state is printed, once, as the console gets it.

    For example:

        tailrace top http://127.0.0.1:8081
    """
    if as_json:
        print_json(_state(url, token))
        return
    from rich.console import Console

    console = Console()
    if once or not console.is_terminal:
        try:
            console.print(screen(_state(url, token), {}))
        except KeyError as error:
            raise _is_another(url, error) from error
        return
    _follow(url, token, console)


def _follow(url: str, token: str | None, console: Any) -> None:
    """Show each state as it comes, until Ctrl-C; a server that is gone is waited for."""
    from rich.live import Live
    from rich.text import Text

    drift = _state(url, token)["observed"]["drift"]  # an address or a token that is wrong ends the command
    rates: dict[str, deque[float]] = {}
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                for state in _states(url, token):
                    drift = state["observed"]["drift"] = _or_last(state["observed"]["drift"], drift)
                    for name, point in state["points"].items():
                        rates.setdefault(name, deque(maxlen=POINTS_MAX)).append(point["offered"])
                    live.update(screen(state, rates), refresh=True)
            except KeyboardInterrupt:
                return
            except KeyError as error:
                raise _is_another(url, error) from error
            except (OSError, ValueError, SetupError) as error:
                live.update(Text(f"{url}: {error}; trying again", style="red"), refresh=True)
            try:
                time.sleep(RETRY_S)
            except KeyboardInterrupt:
                return


def _is_another(url: str, error: KeyError) -> SetupError:
    """Return the error for a server whose console tells other things."""
    return SetupError(
        f"its console does not tell {error}", where=url, next="use the tailrace of the version that the server has"
    )


def screen(state: dict[str, Any], rates: dict[str, deque[float]]) -> RenderableType:
    """Return the screen. rates: the last calls a second of each pipeline."""
    from rich.console import Group
    from rich.text import Text

    verdict = state["verdict"]
    parts: list[RenderableType] = [
        Text(f" {plain(verdict['text'])} ", style=f"bold reverse {VERDICT_STYLES[verdict['level']]}"),
        Text(f"{plain(state['address'])} · up {state['uptime_s']:.0f} s · Tailrace {plain(state['version'])}", "dim"),
    ]
    for pipeline in state["pipelines"]:
        parts += [_head(pipeline, rates.get(pipeline["name"], ())), _layers(pipeline)]
        if pipeline["views"]:
            parts.append(_views(pipeline))
        parts += _observed(state, pipeline["name"])
    if (observer := state["observed"]["observer"]) in NOT_OBSERVED:
        parts.append(Text(NOT_OBSERVED[observer], "yellow" if observer == "silent" else "dim"))
    for alert in state["alerts"]:
        style = "red" if alert["state"] == "firing" else "yellow"
        parts.append(Text(plain(f"{alert['state']}: {alert['alert']} of {alert['pipeline']}: {alert['cause']}"), style))
    parts.append(_processes(state))
    for happening in state["happenings"][-5:]:
        when = time.strftime("%H:%M:%S", time.localtime(happening["at_s"]))
        parts.append(Text(f"{when}  {plain(happening['text'])}"))
    return Group(*parts)


def _table(*headers: str) -> Table:
    return figures_table(*headers, folds=True)


def _head(pipeline: dict[str, Any], rates: Any) -> RenderableType:
    """Return a pipeline's figures in one line, with its rate as bars."""
    from rich.text import Text

    line = Text("\n" + plain(pipeline["name"]), style="bold")
    line.append(f"  {pipeline['offered']:,.0f}/s  p50 {_ms(pipeline['p50'])}  p99 {_ms(pipeline['p99'])}", "default")
    line.append(f" of {pipeline['budget']:g} ms", "dim")
    for name, style in (("shed", "red"), ("degraded", "yellow"), ("failed", "red")):
        line.append(f"  {name} {pipeline[name]:.2%}", style if pipeline[name] else "dim")
    most = max(rates, default=0) or 1
    if pipeline["capacity"]:
        line.append(f"  room for {pipeline['capacity']:,} rows/s", "dim")
    line.append("  " + "".join(BARS[round(rate / most * (len(BARS) - 1))] for rate in rates), "cyan")
    return line


def _layers(pipeline: dict[str, Any]) -> RenderableType:
    """Return p50 and p99 of the wait and of each layer against its budget."""
    table = _table("layer", "p50", "p99", "budget", "")
    for layer in (pipeline["wait"], *pipeline["layers"]):
        budget, p99 = layer["budget"], layer["p99"] or 0.0
        style = "red" if budget and p99 > budget else "default"
        bar = "█" * min(round(p99 / (budget or pipeline["budget"]) * TRACK), TRACK)
        shown = f"{budget:g} ms" if budget else "–"
        table.add_row(layer["name"], _ms(layer["p50"]), _ms(layer["p99"]), shown, bar.ljust(TRACK, "·"), style=style)
    return table


def _views(pipeline: dict[str, Any]) -> RenderableType:
    """Return where the rows of each view came from."""
    table = _table("view", "rows/s", "fresh", "stale", "default", "timeout", "age")
    for view in pipeline["views"]:
        total = sum(view["values"].values())
        shares = [f"{view['values'].get(source, 0) / total:.1%}" if total else "–"
                  for source in ("fresh", "stale", "default", "timeout")]  # fmt: skip
        age = "–" if view["age_s"] is None else f"{view['age_s']:,.0f} s"
        table.add_row(plain(view["name"]), f"{total:,.0f}", *shares, age)
    return table


def _or_last(told: dict[str, Any] | None, last: dict[str, Any] | None) -> dict[str, Any]:
    """Return the windows of drift: a message has them only when they are new."""
    return told if told is not None else last or {}


def _observed(state: dict[str, Any], pipeline: str) -> list[RenderableType]:
    """Return the slowest requests of the last minute, and the series that have drifted farthest."""
    observed, parts = state["observed"], list[Any]()
    if slow := [each for each in observed["slow"].get(pipeline, ()) if each["at_s"] >= state["at_s"] - 60]:
        parts.append(_slow(slow[:SLOW_MAX]))
    drift = (observed["drift"] or {}).get(pipeline)
    if drift is not None:
        table = _table("drift", "found", "PSI", "of", "mean", "before")
        for each in drift["series"][:SERIES_MAX]:
            found, statistics = [*each["alarms"], *(["moved"] if each["is_deviating"] else [])], each["statistics"]
            past = "".join(_step(value, each["psi_threshold"]) for value in each["psi"])
            figures = (_figure(statistics.get("psi")), _figure(each["psi_threshold"]), _figure(statistics.get("mean")))
            style = "red" if found else "default"
            table.add_row(plain(each["series"])[:40], ", ".join(found) or "–", *figures, past, style=style)
        parts.append(table)
    return parts


def _slow(requests: list[dict[str, Any]]) -> RenderableType:
    """Return requests, each with its whole id: what differs in those that the server gives is their end."""
    is_degraded = any(each.get("degraded") for each in requests)
    table = figures_table(
        "slow request", "took", "wait", "most of it", "answer", *(["degraded"] if is_degraded else [])
    )
    table.columns[0].no_wrap = True  # what is narrower than its text is another column, and not this one
    for each in requests:
        answer = each.get("error") or f"{each.get('decision', '')} {_figure(each.get('score'))}".strip()
        degraded = [plain(", ".join(each.get("degraded", ())) or "–")] if is_degraded else []
        longest, layer = max(zip(each["layers"], LAYERS, strict=False))
        times = _ms(each["whole"]), _ms(each["wait"]), f"{layer} {_ms(longest)}"
        name = plain(each["id"] or "–")
        folded = "\n".join(name[at : at + ID_WIDTH] for at in range(0, len(name), ID_WIDTH))
        table.add_row(folded, *times, plain(answer), *degraded)
    return table


def _step(value: float | None, threshold: float) -> str:
    """Return one window of the past as a bar: half as high as it may be at the threshold."""
    if value is None:
        return " "
    return BARS[max(min(round(value / (2 * threshold or 1) * (len(BARS) - 1)), len(BARS) - 1), 1)]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}" if abs(value) >= 0.0005 else "0"


def _processes(state: dict[str, Any]) -> RenderableType:
    """Return the state of each process."""
    table = _table("process", "state", "memory", "restarts", "release")
    for worker in state["workers"]:
        table.add_row(f"worker {worker['slot']}", *_process(worker), plain(worker["release"] or "–"))
    for companion in state["companions"]:
        table.add_row(plain(companion["name"]), *_process(companion), "–")
    for reason, count in state["observed"]["lost"].items():
        table.add_row(f"{count:,} requests not observed: {reason}", style="yellow")
    return table


def _process(process: dict[str, Any]) -> tuple[str, str, str]:
    return process["state"], f"{process['rss_bytes'] / 2**20:,.0f} MB", str(process["restarts"])


def _ms(time_ms: float | None) -> str:
    return "–" if time_ms is None else f"{time_ms:.3g} ms"


def _state(url: str, token: str | None) -> dict[str, Any]:
    """Return the state now. Raises SetupError where there is none to be had."""
    found: dict[str, Any] = read_page(url, "/console/state", token)["state"]
    return found


def _states(url: str, token: str | None) -> Iterator[dict[str, Any]]:
    """Yield each state as the server tells it, until it closes."""
    with opened(url, "/console/events", token) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
