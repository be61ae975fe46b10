"""Explains a request: finds it in the log, asks its release what its decision was made of, and scores it again.

id --lookup--> lines --> requests as they were answered --release--> models, budgets, contributions --> replay
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from tailrace.monitor.log.lookup import REQUEST_ID, Lookup, find_lines
from tailrace.offline.explanation.answers import answers_of
from tailrace.offline.explanation.document import Answered, Explanation, NotSearched, Searched

DEFAULT_RELEASES: Final = ".tailrace/releases"
"""Where a server keeps releases that is started in the folder of its file."""
ANSWERED_MAX: Final = 50
"""Requests of one id that are told whole, the last ones."""
ANOTHER: Final = "another release answered the last request of this id, and one process loads one: give --at, its hour"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What is asked of a log.

    by: the column that has the id. pipeline, at: what is searched, see `find_lines`. releases: directories of releases,
    beside the one that the log names.
    store: in place of the declared. by_release: whether the release tells what it knows; replay: and scores it again.
    """

    log: Path
    by: str = REQUEST_ID
    pipeline: str | None = None
    at: datetime | None = None
    releases: Sequence[Path] = ()
    store: str | None = None
    by_release: bool = True
    replay: bool = False


def explain_request(wanted: str, asking: Asking) -> Explanation:
    """Return all that is known of a request. Raises SetupError where there is no log."""
    lookup = find_lines(asking.log, wanted, by=asking.by, pipeline=asking.pipeline, at=asking.at)
    answered = answers_of(lookup.lines)[-ANSWERED_MAX:]
    if answered and asking.by_release:
        _tell_releases(answered, asking)
    return Explanation(request_id=wanted, searched=_searched(asking.log, lookup), answered=answered)


def _searched(log: Path, lookup: Lookup) -> Searched:
    return Searched(
        log=str(log), pipelines=lookup.pipelines, files=lookup.files, rows=lookup.rows, drafts=lookup.drafts,
        first_hour=lookup.first_hour, last_hour=lookup.last_hour,
        passed_over=[NotSearched(str(each.path.relative_to(log)), each.why) for each in lookup.passed_over],
    )  # fmt: skip


def _tell_releases(answered: Sequence[Answered], asking: Asking) -> None:
    """Have the release of the last request say what it knows of all that it has answered.

    Its code may print, or log to where printing goes: that is no part of what is told.
    """
    from tailrace.offline.explanation.told_release import ReleaseTold  # what it loads is for requests that are found
    from tailrace.release.logged import shelf_named

    newest = answered[-1]
    noted = shelf_named(asking.log, newest.release)
    with redirect_stdout(sys.stderr):
        told = ReleaseTold(newest.release, [*asking.releases, *([noted] if noted else [])], asking.store)
        for each in answered:
            if each.release == newest.release:
                told.tell(each, replay=asking.replay)
            else:
                each.release_note = ANOTHER


def is_well(found: Explanation) -> bool:
    """Return whether the request was found, and if it was scored again, with what was served then."""
    replays = [each.replay for each in found.answered]
    return bool(replays) and all(each is None or each.logged.is_equal for each in replays)
