"""`tailrace explain`: one decision whole, from the prediction log and the release that made it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import typer

from tailrace.cli import explain_options as given
from tailrace.cli.printing import AsJson, print_json


def explain(  # noqa: PLR0917 - one parameter an option
    request_id: given.RequestId,
    log: given.Log,
    pipeline: given.PipelineName = None,
    at: given.At = None,
    trace: given.Trace = False,
    releases: given.Releases = None,
    store: given.Store = None,
    log_only: given.LogOnly = False,
    replay: given.Replay = False,
    as_json: AsJson = False,
) -> None:
    """Explain a decision: what was sent, each feature with its source and age, the release, the rules, the times.

    What each feature adds to the score is computed anew by the release, from the features that were served. With
    --replay the request is scored again: from these, which must give the same score to the bit, and from the store as
    it is now. Both run the release's code; nothing is written. A server may write the log meanwhile.

    Exit code 1 where the request is not in the log; with --replay also where it could not be scored again, or the score
    is another one.

    For example:

        tailrace explain order-4711 --log /var/lib/tailrace/log --replay
    """
    from tailrace.errors import SetupError
    from tailrace.monitor.log.lookup import REQUEST_ID, TRACE
    from tailrace.offline.explanation.explain import DEFAULT_RELEASES, Asking, explain_request, is_well

    if log_only and replay:
        raise SetupError("the release scores a request again, and is not to be asked", where="--replay",
                         next="leave --log-only out")  # fmt: skip
    asking = Asking(
        log=log, by=TRACE if trace else REQUEST_ID, pipeline=pipeline, at=None if at is None else _time(at),
        releases=releases or [Path(DEFAULT_RELEASES)], store=store, by_release=not log_only, replay=replay,
    )  # fmt: skip
    found = explain_request(request_id, asking)
    if as_json:
        print_json(found)
    else:
        from tailrace.cli.explanation_text import print_explanation

        print_explanation(found)
    raise typer.Exit(0 if is_well(found) else 1)


def _time(text: str) -> datetime:
    """Return a time; one without a zone is UTC. Raises SetupError for a text that is none."""
    from tailrace.errors import SetupError

    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise SetupError(f"{text!r} is no time", where="--at", next="write it as 2026-11-28T09:30") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
