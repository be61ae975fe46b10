"""`explain`: what is told of a request that was answered, and of one that is scored again."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from explained_world import World, put_debt
from typer.testing import CliRunner

from tailrace.cli.main import app
from tailrace.offline.explanation.document import Answered, Explanation
from tailrace.offline.explanation.explain import ANOTHER, explain_request, is_well
from tailrace.release.logged import keep_logged, name_release
from tailrace.release.pin import shelf_of
from tailrace.release.pinned import Pin

PAYMENTS = [{"customer_id": 1, "amount": 80.0}, {"customer_id": 2, "amount": 9.0}, {"customer_id": 1, "amount": 3.0}]
ANSWERED = datetime.fromtimestamp(1_750_007_200, UTC)


def only(found: Explanation) -> Answered:
    """Return the one request that was found."""
    (answered,) = found.answered
    return answered


def test_all_that_is_known_is_told(world: World) -> None:
    """What was sent, each feature with its source and age, decision and rules, release, models, times and budgets."""
    world.serve("fraud", PAYMENTS, ["p0", "p1", "p2"], debt=50.0)
    told = only(explain_request("p0", world.asking()))
    assert (told.pipeline, told.release, told.request) == ("fraud", world.release, PAYMENTS[0])
    assert told.time == ANSWERED
    (row,) = told.rows
    features = {each.name: each for each in row.features}
    assert {name: each.value for name, each in features.items()} == {
        "amount": 80.0,
        "Profile.debt": 50.0,
        "share": 0.625,
    }
    debt = features["Profile.debt"]
    assert (debt.view, debt.provenance, debt.age_s) == ("Profile", "fresh", 7_200.0)
    assert debt.event_time == ANSWERED - timedelta(hours=2)
    assert (features["share"].view, features["share"].age_s) == ("", None)
    assert [each.layer for each in told.layers] == ["request", "features", "inference", "postprocess", "response"]
    assert [each.budget_us for each in told.layers] == [1_000_000, 1_000_000, 1_000_000, 0, 0]
    assert told.budget_us == 5_000_000
    assert [each.name for each in told.models] == ["fraud"]
    assert told.release_note == ""
    other = only(explain_request("p1", world.asking())).rows[0]
    assert (other.decision, other.reasons) == ("allow", ["small_amount"])
    assert {each.provenance for each in other.features if each.view} == {"default"}


def test_contributions_are_those_of_the_model_that_answered(world: World) -> None:
    """They are the library's own, the largest first, and with the base they add up to the raw score."""
    import lightgbm

    world.serve("fraud", PAYMENTS, ["p0", "p1", "p2"], debt=50.0)
    row = only(explain_request("p0", world.asking())).rows[0]
    booster = lightgbm.Booster(model_file=str(world.folder / "models" / "fraud" / "explain.lightgbm.txt"))
    told = {each.name: each.adds for each in row.features}
    (found,) = booster.predict(np.array([[80.0, 50.0, 0.625]]), pred_contrib=True)
    assert [told[name] for name in ("amount", "Profile.debt", "share")] == pytest.approx(found[:3].tolist())
    sizes = [abs(each.adds or 0.0) for each in row.features]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) > 0
    assert row.score == pytest.approx(1 / (1 + np.exp(-found.sum())), abs=1e-6)


def test_replay_is_equal_to_the_bit_and_tells_what_has_changed_since(world: World) -> None:
    """From the logged features the score is the same; from the store as it is now what has changed is named."""
    store = put_debt(world, 50.0)
    world.serve("fraud", PAYMENTS, ["p0", "p1", "p2"], debt=50.0)
    found = explain_request("p0", world.asking(replay=True, store=store))
    replay = only(found).replay
    assert replay is not None
    assert (replay.logged.is_equal, replay.now.is_equal, replay.store) == (True, True, store)
    assert replay.logged.rows[0].score == only(found).rows[0].score
    assert is_well(found)
    put_debt(world, 4.0)
    replay = only(explain_request("p0", world.asking(replay=True, store=store))).replay
    assert replay is not None
    assert (replay.logged.is_equal, replay.now.is_equal) == (True, False)
    changed = {each.name: (each.then, each.now) for each in replay.now.rows[0].changed}
    assert changed == {"Profile.debt": (50.0, 4.0), "share": (0.625, 0.05)}
    assert replay.now.why == ["features have other values now"]


def test_rule_that_reads_what_is_not_logged_is_told_as_such(world: World) -> None:
    """It goes by what the store has now; without that store contributions are told all the same."""
    store = put_debt(world, 50.0, kind="old")
    world.serve("fraud", PAYMENTS[:1], ["p0"], debt=50.0)
    told = only(explain_request("p0", world.asking(replay=True, store=store)))
    assert told.replay is not None
    assert not told.replay.logged.is_equal
    assert "reads what is not logged" in told.replay.logged.why[0]
    assert told.replay.logged.rows[0].reasons == ["old"]
    assert told.replay.logged.rows[0].score == told.rows[0].score
    gone = only(explain_request("p0", world.asking(replay=True, store="redis://127.0.0.1:1")))
    assert gone.replay is not None
    assert "the store failed" in gone.replay.logged.fault
    assert "the store failed" in gone.replay.now.fault
    assert gone.rows[0].unexplained == ""
    assert gone.rows[0].features[0].adds


def test_score_that_is_another_is_told_with_what_may_account_for_it(world: World) -> None:
    """A model that keeps a state, digits that are rounded, a fallback that answered: each is told apart."""
    world.serve("ranking", [{"item_ids": [1, 2], "amount": 5.0}], ["same"])
    model = world.pipelines["ranking"].model.model
    cases = [("far", 3.0), ("near", 1e-9)]
    for name, moved in cases:
        model.moved = moved
        try:
            world.serve("ranking", [{"item_ids": [1, 2], "amount": 5.0}], [name])
        finally:
            model.moved = 0.0
    equal, far, near = (explain_request(name, world.asking(replay=True)) for name in ("same", "far", "near"))
    assert is_well(equal)
    assert not is_well(far)
    replays = [only(each).replay for each in (far, near)]
    assert all(each is not None and not each.logged.is_equal for each in replays)
    assert "remote, has a state" in str(replays[0])
    assert "last digits" in str(replays[1])
    world.serve("fraud", PAYMENTS[:1], ["fell"], degraded=np.array([8], np.uint8), scores=np.array([0.5]))
    fell = only(explain_request("fell", world.asking(replay=True, store=put_debt(world, 1.0))))
    assert fell.replay is not None
    assert "fallback" in fell.replay.logged.why[0]
    assert "another score stands" in fell.rows[0].unexplained


def test_each_row_is_explained_by_the_model_that_scored_it(world: World) -> None:
    """Of a split the way is told, and the variant that has no trees says so; scored again, each goes the same way."""
    world.serve("tried", [{"customer_id": 1, "amount": 0.5}, {"customer_id": 2, "amount": 0.25}], ["one", "two"])
    told = [
        only(explain_request(name, world.asking(replay=True, store=put_debt(world, 0.0)))) for name in ("one", "two")
    ]
    ways = {each.rows[0].branches["ab"]: each for each in told}
    assert ways.keys() == {"champion", "challenger"}
    assert ways["champion"].rows[0].unexplained == ""
    assert any(each.adds for each in ways["champion"].rows[0].features)
    assert "cannot be explained" in ways["challenger"].rows[0].unexplained
    assert all(each.replay is not None and each.replay.logged.is_equal for each in told)
    assert [model.name for model in told[0].models] == ["fraud"]


def test_rows_of_a_request_are_told_together(world: World) -> None:
    """A request of many rows has each of them, with its features and its score again."""
    world.serve("ranking", [{"item_ids": [7, 8, 9], "amount": 5.0}, {"item_ids": [], "amount": 1.0}], ["many", "none"])
    told = only(explain_request("many", world.asking(replay=True)))
    assert [row.row for row in told.rows] == [0, 1, 2]
    assert all(row.score == 6.0 for row in told.rows)
    assert told.replay is not None
    assert (told.replay.logged.is_equal, len(told.replay.logged.rows)) == (True, 3)
    assert all("cannot be explained" in row.unexplained for row in told.rows)


def test_retries_copies_and_arrays_are_told_apart(world: World) -> None:
    """Another time is another answer; the same line twice is one; one call's array is told as such."""
    world.serve("fraud", PAYMENTS, ["again", "x", "y"])
    later = np.full(3, 1_750_010_000 * 10**9)
    world.serve("fraud", PAYMENTS, ["again", "x", "y"], answered_ns=later)
    world.serve("fraud", PAYMENTS[:2], ["call", "call"])
    world.serve("fraud", PAYMENTS[:1], ["copy"], seal=True)
    (line,) = (world.log / "fraud").rglob("*.parquet")
    shutil.copy(line, line.with_name("2-2-2.parquet"))
    again = explain_request("again", world.asking()).answered
    assert [each.time for each in again] == [ANSWERED, datetime.fromtimestamp(1_750_010_000, UTC)]
    call = explain_request("call", world.asking()).answered
    assert [(each.item, each.items, each.request["amount"]) for each in call] == [(0, 2, 80.0), (1, 2, 9.0)]
    copy = only(explain_request("copy", world.asking()))
    assert (copy.copies, len(copy.files)) == (2, 2)


def test_what_is_redacted_is_shown_as_that(world: World) -> None:
    """Masked fields are named, and a request without them cannot be scored again, which is said."""
    world.serve("secret", [{"card": "4111", "amount": 0.25}], ["s"])
    told = only(explain_request("s", world.asking(replay=True)))
    assert (told.request, told.redacted) == ({"card": "xxxx", "amount": 0.25}, ["$.card"])
    assert told.replay is not None
    assert told.replay.logged.fault == "$.card of the request is redacted"


def test_release_that_is_gone_costs_what_it_would_say_and_no_more(world: World) -> None:
    """The log is told without it; only a replay fails for it, with where it was looked for."""
    world.serve("fraud", PAYMENTS[:1], ["p0"], release="0123456789ab")
    found = explain_request("p0", world.asking())
    assert (
        only(found).release_note == f"release 0123456789ab is not among those that are kept in {world.root.resolve()}"
    )
    assert only(found).rows[0].features
    assert is_well(found)
    replayed = explain_request("p0", world.asking(replay=True))
    assert not is_well(replayed)
    world.serve("fraud", PAYMENTS[:1], ["p1"])
    unknown = only(explain_request("p1", world.asking(releases=[])))
    assert "no directory of releases is known" in unknown.release_note


def test_log_says_where_its_releases_are_kept(world: World) -> None:
    """Nobody who explains a decision need know how its server was started."""
    world.serve("fraud", PAYMENTS[:1], ["p0"])
    name_release(world.log, world.release)
    (folder,) = (path for path in (world.root / "servers").iterdir() if not path.name.startswith("logged-"))
    pinned = msgspec.json.decode((folder / "pin-1.json").read_bytes(), type=Pin)
    with shelf_of(pinned) as shelf:
        keep_logged(shelf, pinned, world.release, world.log)
    told = only(explain_request("p0", world.asking(releases=[])))
    assert (told.release_note, told.rows[0].unexplained) == ("", "")
    copied = world.folder / "copied"
    shutil.copytree(world.log, copied)
    foreign = only(explain_request("p0", world.asking(log=copied, releases=[])))
    assert "no directory of releases is known" in foreign.release_note  # no log makes code run that does not know it


def test_answers_of_two_releases_are_told_and_the_last_one_speaks(world: World) -> None:
    """One process loads one release."""
    world.serve("fraud", PAYMENTS[:1], ["p"], release="0123456789ab", answered_ns=np.array([10**18]))
    world.serve("fraud", PAYMENTS[:1], ["p"])
    older, newer = explain_request("p", world.asking()).answered
    assert (older.release_note, newer.release_note) == (ANOTHER, "")


def test_command_prints_what_is_known_and_exits_by_it(world: World, tmp_path: Path) -> None:
    """As text and as JSON; 1 for an id that is not there, with what was searched."""
    world.serve("fraud", PAYMENTS, ["p0", "p1", "p2"], debt=50.0)
    line = ["explain", "p0", "--log", str(world.log), "--releases", str(world.root)]
    shown = CliRunner().invoke(app, [*line, "--replay", "--store", put_debt(world, 50.0)])
    assert shown.exit_code == 0, shown.output
    for text in ("p0  fraud  2025-06-15 17:06:40.000 UTC", "Profile.debt", "2 h 0 m", "equal, to the bit"):
        assert text in shown.output
    assert re.search(r"(allow|block) at 0\.\d+", shown.output)
    as_json = CliRunner().invoke(app, [*line, "--json", "--at", "2025-06-15T16:30"])
    assert msgspec.json.decode(as_json.stdout, type=Explanation).answered[0].rows[0].features
    absent = CliRunner().invoke(app, ["explain", "nobody", "--log", str(world.log)])
    assert absent.exit_code == 1
    assert "nobody is not in the log" in absent.output
    assert "fraud: 2025-06-15T15 to 2025-06-15T15 UTC, 0 whole files and 1 still written" in absent.output
    failed = CliRunner().invoke(app, ["explain", "p0", "--log", str(tmp_path / "none")])
    assert failed.exit_code == 1
    assert "there is no log" in str(failed.exception)


def test_document_is_plain_json(world: World) -> None:
    """A number that JSON does not know is null, and nothing is lost of a text that holds markup."""
    world.serve("fraud", [{"customer_id": 1, "amount": 1.5}], ["<script>"])
    found = explain_request("<script>", world.asking())
    assert json.loads(msgspec.json.encode(found))["request_id"] == "<script>"


def test_what_the_release_prints_is_no_part_of_the_document(world: World) -> None:
    """A model that prints as it scores again had made of the JSON none, and of the console's page an error."""
    world.serve("tried", PAYMENTS, ["t0", "t1", "t2"])
    line = ["explain", "t1", "--log", str(world.log), "--releases", str(world.root), "--replay", "--json"]
    told = CliRunner().invoke(app, line)
    assert "adding up" in told.stderr
    assert json.loads(told.stdout)["request_id"] == "t1"
