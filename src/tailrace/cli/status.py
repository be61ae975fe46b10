"""`tailrace status`: how a server is, once, for a person at night and for a script."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tailrace.cli.admin_port import Token, Url, read_page
from tailrace.cli.printing import VERDICT_STYLES, AsJson, figures_table, plain, print_json
from tailrace.deadline import NS_PER_MS
from tailrace.errors import SetupError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

HEALTHY, DEGRADED, UNREACHABLE = 0, 1, 2
"""Exit codes."""
WELL: Final = frozenset(("good", "idle"))
"""Levels of a verdict that nobody need look into."""
TRACK: Final = 16
SERIES_MAX: Final = 3
SOURCES: Final = ("fresh", "stale", "default", "timeout")


def status(
    url: Url,
    token: Token = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the verdict alone.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how a server is: the verdict first, then what it serves, within which times, and what is wrong.

    Ends with 0 where all is well, with 1 where it is degraded (it fails, sheds, is over its budget, degrades answers,
    an alert fires, or a process is not ready), and with 2 where nobody answers.

    For example:

        tailrace status http://127.0.0.1:8081
        tailrace status http://127.0.0.1:8081 --quiet || page-somebody
        tailrace status http://127.0.0.1:8081 --json | jq .latencies
    """
    try:
        found = read_page(url, "/status", token)
        found["verdict"] = read_page(url, "/console/state", token)["state"]["verdict"]
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(UNREACHABLE) from None
    if as_json:
        print_json(found)
    else:
        from rich.console import Console

        console = Console()
        parts = screen(found)
        console.print(*([next(parts)] if quiet else parts), sep="\n")
    raise typer.Exit(HEALTHY if is_healthy(found) else DEGRADED)


def is_healthy(found: dict[str, Any]) -> bool:
    """Return whether nobody need look into a server."""
    processes = (*found["workers"], *found["companions"])
    return (
        found["ready"]
        and found["verdict"]["level"] in WELL
        and not any(alert["state"] == "firing" for alert in found["alerts"])
        and all(process["state"] == "ready" for process in processes)
    )


def screen(found: dict[str, Any]) -> Iterator[RenderableType]:
    """Yield what is shown, part by part; the verdict first."""
    from rich.text import Text

    verdict = found["verdict"]
    level = verdict["level"] if verdict["level"] not in WELL or is_healthy(found) else "warn"
    whose = f"{verdict['pipeline']}: " if verdict["pipeline"] and len(found["pipelines"]) > 1 else ""
    yield Text(plain(f" {whose}{verdict['text']} "), style=f"bold reverse {VERDICT_STYLES[level]}")
    for alert in found["alerts"]:
        yield _alert(alert)
    up = f"{plain(found['address'])} · up {_span(found['uptime_s'])} · Tailrace {plain(found['version'])}"
    yield Text(up, "dim")
    for pipeline in found["recent"]:
        yield from _pipeline(pipeline, found)
    yield Text()
    yield _processes(found)
    yield from _told(found)


def _alert(alert: dict[str, Any]) -> RenderableType:
    """Return an alert in a line, and what to do about one that fires."""
    from rich.text import Text

    firing = alert["state"] == "firing"
    line = Text().append(f"{alert['state'].upper()} ", "bold red" if firing else "yellow")
    line.append(plain(f"{alert['alert']} of {alert['pipeline']} for {_span(alert['since_s'])}: {alert['cause']}"))
    return line.append(plain(f" ({alert['runbook']})") if firing else "", "dim")


def _pipeline(recent: dict[str, Any], found: dict[str, Any]) -> Iterator[RenderableType]:
    """Yield what there is to say of one pipeline. recent: its figures of the last seconds."""
    from rich.text import Text

    name = recent["name"]
    minute, ten = (found["latencies"].get(span, {}).get(name) for span in ("1m", "10m"))
    line = Text("\n").append(plain(name), "bold").append(f"  {recent['requests_per_s'] or 0:,.0f} requests/s")
    calls, shed = max(recent["requests"], 1), sum(recent["shed"].values())
    failed = sum(count for code, count in recent["codes"].items() if code >= "500") - shed
    for told, share, style in (
        ("degraded", max(recent["degraded"].values(), default=0) / max(recent["rows"], 1), "yellow"),
        ("shed", shed / calls, "red"),
        ("failed", max(failed, 0) / calls, "red"),
    ):
        line.append(f"  {told} {share:.2%}", style if share else "dim")
    yield line
    if minute is not None and ten is not None:
        yield _layers(recent, minute, ten)
    if recent["features"]:
        yield _views(recent)
    if (drift := found["drift"].get(name)) is not None:
        yield _drift(drift)


def _layers(recent: dict[str, Any], minute: dict[str, Any], ten: dict[str, Any]) -> Table:
    """Return the times of each layer against its budget."""
    table = figures_table("ms, last minute", "p50", "p95", "p99", "p99, 10 min", "budget", "")
    whole_ns = recent["whole"]["budget_ns"]
    rows = [("queue", 0, minute["wait"], ten["wait"])]
    rows += [(layer, recent["layers"][layer]["budget_ns"], each, ten["layers"][layer])
             for layer, each in minute["layers"].items()]  # fmt: skip
    rows.append(("whole", whole_ns, minute["whole"], ten["whole"]))
    for layer, budget_ns, now, long in rows:
        p99_ns = now["p99_ns"] or 0
        bar = "█" * min(round(p99_ns / (budget_ns or whole_ns or 1) * TRACK), TRACK)
        times = [_ms(now[name]) for name in ("p50_ns", "p95_ns", "p99_ns")]
        shown = f"{budget_ns / NS_PER_MS:g}" if budget_ns else "–"
        style = "red" if budget_ns and p99_ns > budget_ns else "bold" if layer == "whole" else ""
        table.add_row(layer, *times, _ms(long["p99_ns"]), shown, bar.ljust(TRACK, "·"), style=style)
    return table


def _views(recent: dict[str, Any]) -> Table:
    """Return where the rows of each view came from of late."""
    table = figures_table("view", *SOURCES)
    for view, values in recent["features"].items():
        total = sum(values.values()) or 1
        shares = [f"{values.get(source, 0) / total:.1%}" for source in SOURCES]
        table.add_row(plain(view), *shares, style="yellow" if values.get("timeout") else "")
    return table


def _drift(drift: dict[str, Any]) -> RenderableType:
    """Return what drift was found in, in the last window."""
    from rich.text import Text

    worst = [f"{series['series']} ({', '.join(series['alarms']) or 'deviating'})" for series in drift["series"]
             if series["alarms"] or series["is_deviating"]]  # fmt: skip
    if not worst:
        learning = f", {drift['learning']} still learning" if drift["learning"] else ""
        return Text(f"drift: none in {drift['watched']} series{learning}", "dim")
    more = "" if len(worst) <= SERIES_MAX else ", …"
    text = f"drift: {drift['alarmed']} of {drift['watched']} series: {', '.join(worst[:SERIES_MAX])}{more}"
    return Text(plain(text), "yellow" if drift["alarmed"] else "")


def _processes(found: dict[str, Any]) -> Table:
    """Return the state of each process."""
    table = figures_table("process", "pid", "state", "memory", "restarts", "release")
    named = [(f"worker {each['slot']}", each) for each in found["workers"]]
    for name, each in named + [(each["name"], each) for each in found["companions"]]:
        memory = f"{each['rss_bytes'] / 2**20:,.0f} MB"
        facts = (str(each["pid"] or "–"), each["state"], memory, str(each["restarts"]), each.get("release") or "–")
        table.add_row(plain(name), *map(plain, facts), style="" if each["state"] == "ready" else "red")
    return table


def _told(found: dict[str, Any]) -> Iterator[RenderableType]:
    """Yield what has become of what was to be logged and traced."""
    from rich.text import Text

    told, traces = found["predictions"], found["traces"]
    if told["logged"] or any(told["lost"].values()):
        lost = _lost(told["lost"])
        yield Text(f"\nlog: {told['logged']:,} requests kept{lost or ', none lost'}", "yellow" if lost else "")
    if traces is not None:
        lost = _lost({outcome: traces["spans"][outcome] for outcome in ("rejected", "failed", "dropped")})
        text = f"traces: {traces['spans']['exported']:,} spans to {traces['to']}{lost or ', none lost'}"
        fault = f" ({traces['fault']})" if traces["fault"] else ""
        yield Text(plain(text + fault), "yellow" if lost or fault else "")


def _lost(counts: dict[str, int]) -> str:
    """Return what was lost, by the reason; empty for nothing."""
    found = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
    return f"; lost: {found}" if found else ""


def _ms(time_ns: float | None) -> str:
    """Return a time in milliseconds, in six characters at most up to a quarter of an hour."""
    if time_ns is None:
        return "–"
    time_ms = time_ns / NS_PER_MS
    return f"{time_ms:.{0 if time_ms >= 100 else 1 if time_ms >= 10 else 2 if time_ms >= 1 else 3}f}"


def _span(time_s: float) -> str:
    """Return a time as a person says it."""
    for unit, size_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if time_s >= size_s:
            return f"{time_s / size_s:.3g} {unit}"
    return f"{time_s:.0f} s"
