"""Two versions decide the same requests: each flip is counted, its money exact, what does not count is told."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
from typer.testing import CliRunner

import tailrace as tr
from offline.whatif.conftest import PIPELINE, payment, write_lines
from tailrace.cli.main import app
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import MonotonicClock
from tailrace.errors import RegistryError, SetupError
from tailrace.monitor.sampler import Sampler
from tailrace.monitor.samples import SampleWriter
from tailrace.offline.whatif.replay import Asking, what_if
from tailrace.offline.whatif.report import WhatIf
from tailrace.offline.whatif.sides import Place, find_sides
from tailrace.release.registry.child import RegistryChoice
from tailrace.testing import TestClient

PAYMENTS = [payment(amount) for amount in (100.10, 200.20, 200.30, 300.30, 600.60)]
"""By `one` allow, allow, allow, review, block; by `two` allow, review, review, block, block."""


def replay(folder: Path, lines: list[Any], one: str = "one", other: str = "two", **asked: Any) -> WhatIf:
    """Replay lines through two of the models."""
    return replay_file(folder, write_lines(folder / "requests.jsonl", lines), one, other, **asked)


def replay_file(folder: Path, requests: Path, one: str = "one", other: str = "two", **asked: Any) -> WhatIf:
    """Replay the requests of a file through two of the models."""
    texts = [each if each.endswith(".py") else f"{folder}/models/{each}" for each in (one, other)]
    place = Place(f"{folder}/pipeline.py", None, RegistryChoice(), folder)
    return what_if(find_sides(texts[0], texts[1], place), Asking(requests=requests, **asked))


def flips_of(found: WhatIf) -> dict[str, tuple[int, Decimal]]:
    """Return rows and money of each flip."""
    return {f"{flip.before} {flip.after}": (flip.rows, flip.money) for flip in found.flips.values()}


def digests(folder: Path) -> dict[str, str]:
    """Return what the files of a folder hold; readers note themselves in a store's lock."""
    files = (each for each in folder.rglob("*") if each.is_file() and each.name != "lock.mdb")
    return {
        str(each): hashlib.sha256(each.read_bytes()).hexdigest() for each in files if "__pycache__" not in str(each)
    }


def test_flips_are_counted_and_their_money_is_exact(folder: Path) -> None:
    """What each version decides is known by construction; sums of cents are not rounded."""
    found = replay(folder, PAYMENTS)
    assert flips_of(found) == {"allow review": (2, Decimal("400.50")), "review block": (1, Decimal("300.30"))}
    assert found.decided.tolist() == [[1, 2, 0], [0, 0, 1], [0, 0, 1]]
    assert (found.money, found.money_flipped) == (Decimal("1401.50"), Decimal("700.80"))
    assert [each.id for each in found.flips[0, 1].examples] == ["p200.3", "p200.2"]
    assert found.flips[1, 2].changes.quantiles() == pytest.approx([0.3003] * 3, abs=1e-6)


def test_many_pages_are_one_sum(folder: Path) -> None:
    """Ten thousand dimes are a thousand, whatever binary fractions make of them, and `limit` ends the replay."""
    lines = [payment(200.1, str(number)) for number in range(10_000)]
    found = replay(folder, lines, limit=9_000)
    assert flips_of(found) == {"allow review": (9_000, Decimal("1800900.0"))}
    assert found.requests == found.rows == 9_000


def test_features_come_from_the_store_and_nothing_is_written(folder: Path) -> None:
    """A debt in the store moves the score of its customer; no file is another after the replay."""
    before = digests(folder / ".tailrace")
    found = replay(folder, [payment(100, "owes", customer=1), payment(100, "owes nothing", customer=2)], "one", "debt")
    assert flips_of(found) == {"allow review": (1, Decimal(100))}
    assert found.flips[0, 1].examples[0].id == "owes"
    assert found.views == {"Profile": {"fresh": 1, "default": 1}}
    assert str(folder / ".tailrace" / "store") in found.features
    assert digests(folder / ".tailrace") == before


def sampled(folder: Path, *requests: dict[str, Any]) -> Path:
    """Return samples of requests, served by the pipeline with the model `debt` and recorded as a server does."""
    (pipeline,) = load_pipelines(folder / "pipeline.py")
    one, _ = find_sides(
        f"{folder}/models/debt", f"{folder}/models/one", Place(f"{folder}/pipeline.py", None, RegistryChoice(), folder)
    )
    clock, path = MonotonicClock(), folder / "samples.jsonl"
    writer = SampleWriter(path, structlog.get_logger())
    with TestClient(replace(one.pipeline, budget=tr.Budget("10s"))) as client:
        client.put(pipeline.views[0], 1, debt=1.5)
        batch = client.run([json.dumps(request).encode() for request in requests])
        Sampler(one.pipeline, "release", writer, clock).record(batch, clock.now_ns())
    writer.close()
    return path


def test_samples_are_replayed_with_the_features_that_they_were_served_with(folder: Path) -> None:
    """The store is gone meanwhile, and the sample still knows the debt; a plain request does not."""
    path = sampled(folder, payment(100, "owes", customer=1), payment(100, "owes nothing", customer=2))
    shutil.rmtree(folder / ".tailrace")
    lines = path.read_text().splitlines()
    found = replay(folder, lines, "debt", "one")
    assert flips_of(found) == {"review allow": (1, Decimal(100))}
    assert found.features == "as they were served"
    assert (found.samples, found.samples_alike) == (2, 2)
    assert replay(folder, lines, "one", "debt").samples_alike == 1
    assert found.views == {"Profile": {"fresh": 1, "default": 1}}
    with pytest.raises(SetupError, match="no store"):
        replay(folder, PAYMENTS, "debt", "one")


def test_samples_of_others_are_told_apart(folder: Path) -> None:
    """A sample of another pipeline, or with other features, is counted and not scored."""
    line = json.loads(sampled(folder, payment(300.3, "owes", customer=1)).read_text())
    others = [line | {"pipeline": "other"}, line | {"features": {"amount": 1.0}}]
    found = replay(folder, [line, *others, "{"], "one", "two")
    assert (found.rows, found.others.count, found.unread.count) == (1, 2, 1)
    assert "it is of pipeline 'other'" in found.others.examples[0][1]
    assert "Profile.debt" in found.others.examples[1][1]


def test_lines_that_are_no_request_are_told_by_number(folder: Path) -> None:
    """Each is counted, the first with file, line and reason; the others are replayed."""
    lines = [*PAYMENTS, "no JSON", payment(1) | {"amount": "much"}, "[]", "", PAYMENTS[0] | {"more": 1}]
    found = replay(folder, lines)
    assert (found.requests, found.unread.count) == (5, 4)
    wheres = [where.rpartition(":")[2] for where, _ in found.unread.examples]
    assert wheres == ["6", "7", "8", "10"]
    assert found.unread.examples[1][1] == "Expected `float`, got `str` - at $.amount"


def test_parquet_is_replayed_as_json_lines_are(folder: Path) -> None:
    """Each row is a request, whatever other columns go along; an outcome may be one of them."""
    lines = [{**each, "fraud": number % 2 == 0} for number, each in enumerate(PAYMENTS)]
    as_lines = replay(folder, lines, label="fraud")
    table = pa.Table.from_pylist([{**each, "note": "kept"} for each in lines])
    pq.write_table(table, folder / "requests.parquet", row_group_size=2)
    as_rows = replay_file(folder, folder / "requests.parquet", label="fraud")
    assert as_rows.requests == len(PAYMENTS)
    assert flips_of(as_rows) == flips_of(as_lines)
    assert [(flip.right, flip.wrong) for flip in as_rows.flips.values()] == [(1, 1), (0, 1)]
    assert [(flip.right, flip.wrong) for flip in as_lines.flips.values()] == [(1, 1), (0, 1)]


def test_row_that_is_no_request_is_told_by_number(folder: Path) -> None:
    """A column may lack a value; the row is left out, and said."""
    rows = [PAYMENTS[0], {**PAYMENTS[1], "amount": None}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "requests.parquet")
    found = replay_file(folder, folder / "requests.parquet")
    assert found.requests == 1
    ((where, why),) = found.unread.examples
    assert where.endswith("requests.parquet:2")
    assert "amount" in why


def test_empty_file_is_an_error(folder: Path) -> None:
    """Nothing replayed is not a result; nor is a file without one request."""
    with pytest.raises(SetupError, match="it has no requests"):
        replay(folder, [])
    with pytest.raises(SetupError, match=r"of 1 lines none could be replayed; \S+:1: "):
        replay(folder, ["{}"])


def test_versions_of_other_inputs_are_an_error_that_names_the_version(folder: Path) -> None:
    """A model that wants what the pipeline does not have is refused before the first request."""
    with pytest.raises(SetupError, match=r"(?s)fraud with \S+models/other.*Profile.income"):
        replay(folder, PAYMENTS, other="other")


def test_degraded_scores_are_no_flips(folder: Path) -> None:
    """A score that the model could not give is the fallback's: its row is counted apart, and that it differs."""
    source = PIPELINE.replace("features=[Payment.amount, Profile, twice]", "features=[Payment.amount]")
    (folder / "pipeline.py").write_text(source)
    (folder / "log.py").write_text(source.replace('Model("fraud"', 'Model("log"'))
    (folder / "less.py").write_text(source.replace('Model("fraud"', 'Model("log"').replace("block=0.5", "block=0.9"))
    found = replay(folder, [payment(-1.0), payment(2.0)], f"{folder}/log.py", f"{folder}/less.py")
    assert flips_of(found) == {"block review": (1, Decimal(2))}
    assert (found.rows, found.degraded_rows, found.degraded_flips) == (1, 1, 1)
    assert found.degraded == {"model_error": 1}


def test_request_on_which_a_layer_raises_is_alone(folder: Path) -> None:
    """The fault of one request costs no other its place."""
    found = replay(folder, [*PAYMENTS, payment(6666), *PAYMENTS])
    assert (found.rows, found.faulted.count) == (10, 1)
    assert found.faulted.examples[0][1] == "ValueError: 6666"


def test_rules_stand_on_both_sides(folder: Path) -> None:
    """What a rule decides does not flip."""
    assert not replay(folder, [payment(9.0, customer=1)], "one", "debt").flips


@pytest.mark.parametrize("in_file", [True, False])
def test_outcomes_tell_which_flips_are_right(folder: Path, in_file: bool) -> None:
    """To decide a fraud higher is right, an honest payment wrong; from each line, or a file by id."""
    frauds = {"p200.2": 1, "p200.3": 0, "p300.3": 1}
    lines = [each if in_file else each | {"is_fraud": frauds.get(each["id"])} for each in PAYMENTS]
    rows = "".join(f"{name},{outcome}\n" for name, outcome in frauds.items())
    (folder / "outcomes.csv").write_text(f"id,is_fraud\n{rows}")
    asked = {"outcomes": folder / "outcomes.csv"} if in_file else {"label": "is_fraud"}
    found = replay(folder, lines, **asked)
    judged = [(each.right, each.wrong, each.money_right, each.money_wrong) for each in found.ordered]
    assert judged == [(1, 1, Decimal("200.2"), Decimal("200.3")), (1, 0, Decimal("300.3"), 0)]
    assert found.outcomes == 3
    back = replay(folder, lines, "two", "one", **asked)
    assert [(each.right, each.wrong) for each in back.ordered] == [(1, 1), (0, 1)]


def test_outcomes_that_judge_nothing_are_told(folder: Path) -> None:
    """Ids of another kind, a label that no line has, a word that means nothing: each would look like no outcomes."""
    (folder / "outcomes.csv").write_text("id,is_fraud\n200.2,1\n")
    usual = replay(folder, PAYMENTS).warnings
    (told,) = replay(folder, PAYMENTS, outcomes=folder / "outcomes.csv").warnings[len(usual) :]
    assert told == (
        "no outcome is of a request that was replayed: the file has ids such as '200.2', the requests such as 'p100.1'"
    )
    (told,) = replay(folder, PAYMENTS, label="fraud").warnings[len(usual) :]
    assert told.startswith("no line has an outcome 'fraud'")
    (told,) = replay(folder, [each | {"fraud": "disputed"} for each in PAYMENTS], label="fraud").warnings[len(usual) :]
    assert told.startswith("an outcome such as 'disputed' judges nothing")
    assert replay(folder, [each | {"fraud": "block"} for each in PAYMENTS], label="fraud").warnings == usual


def test_whole_numbers_that_were_read_as_floats_are_the_same_ids(folder: Path) -> None:
    """One missing id makes a column of floats of them; a request without an id is none of the file's."""
    rows = pa.table({"customer_id": [17.0, None], "is_fraud": [1, 1]})
    pq.write_table(rows, folder / "outcomes.parquet")
    lines = [payment(200.2, customer=17), payment(200.3, customer=18)]
    found = replay(folder, lines, outcomes=folder / "outcomes.parquet", id_field="customer_id")
    assert found.outcomes == 1
    assert [(each.right, each.wrong) for each in found.ordered] == [(1, 0)]


def test_picture_that_cannot_be_written_costs_no_replay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is printed all the same."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(folder)
    write_lines(folder / "requests.jsonl", PAYMENTS)
    words = ["models", "whatif", "models/one", "models/two", "--pipeline=pipeline.py", "--requests=requests.jsonl"]
    done = CliRunner().invoke(app, [*words, "--plot=requests.jsonl/flips.png"])
    assert done.exit_code == 0, done.exception
    assert "no picture is drawn: requests.jsonl/flips.png: " in done.output
    assert "3 of 5 decisions flip" in done.output


def test_two_pipelines_are_held_against_each_other(folder: Path) -> None:
    """Other bands flip decisions though no score moves."""
    source = PIPELINE.replace('tr.Model("fraud"', 'tr.Model("one"')
    for name, text in (("now.py", source), ("then.py", source.replace("review=0.25", "review=0.15"))):
        (folder / name).write_text(text)
    found = replay(folder, PAYMENTS, f"{folder}/now.py", f"{folder}/then.py")
    assert flips_of(found) == {"allow review": (2, Decimal("400.50"))}
    assert found.edges[1]["review"] == 0.15


def test_modules_of_one_name_beside_two_pipelines_are_refused(folder: Path) -> None:
    """The second pipeline must not be given the first one's module."""
    for place in ("a", "b"):
        (folder / place).mkdir()
        (folder / place / "edges_of_whatif.py").write_text("REVIEW = 0.25\n")
        source = PIPELINE.replace('"""\n\nimport', '"""\n\nfrom edges_of_whatif import REVIEW\nimport', 1)
        (folder / place / "pipeline.py").write_text(source)
    with pytest.raises(SetupError, match="both files have a module 'edges_of_whatif'"):
        replay(folder, PAYMENTS, f"{folder}/a/pipeline.py", f"{folder}/b/pipeline.py")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("fraud@1", "fraud@2"), "no registry is named"),
        (("models/one", "pipeline.py"), "a model cannot be held against a pipeline"),
        (("models/one", "models/three"), "no such model directory"),
        (("models/one", "models/two", "--amount", "price"), "no number 'price'"),
        (("models/one", "models/two", "--id", "name"), "no field 'name'"),
        (("models/one", "models/two", "--plot", "p.gif"), r"a \.png or an \.svg"),
        (("models/one", "models/two", "--model", "three"), "which of its models"),
    ],
)
def test_what_cannot_be_compared_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], what: str
) -> None:
    """Each mistake is told before anything is replayed."""
    monkeypatch.chdir(folder)
    write_lines(folder / "requests.jsonl", PAYMENTS)
    done = CliRunner().invoke(
        app, ["models", "whatif", *words, "--requests", "requests.jsonl", "--pipeline", "pipeline.py"]
    )
    assert isinstance(done.exception, SetupError)
    with pytest.raises(SetupError, match=what):
        raise done.exception


def test_command_tells_versions_of_a_registry_by_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alias is told as the version that it names; JSON has exact money and the picture's place."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TAILRACE_REGISTRY", str(folder / "registry"))
    write_lines(folder / "requests.jsonl", PAYMENTS)
    run = CliRunner().invoke
    for name in ("one", "two"):
        words = ["models", "register", f"models/{name}", "--name", "fraud", "--alias", name]
        assert run(app, words).exit_code == 0
    words = [
        "models",
        "whatif",
        "fraud@one",
        "fraud@two",
        "--pipeline",
        "pipeline.py:fraud",
        "--requests",
        "requests.jsonl",
    ]
    done = run(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout, parse_float=Decimal)
    assert (told["a"], told["b"], told["rows"], told["flipped"]) == ("fraud@1", "fraud@2", 5, 3)
    assert told["money_flipped"] == Decimal("700.80")
    assert "cannot be explained" in told["unexplained"]
    shown = run(app, words)
    assert shown.exit_code == 0
    assert "3 of 5 decisions flip (60.00%) from fraud@1 to fraud@2, worth 700.80 of 1,401.50 (50.00%)" in shown.output
    assert "allow → review" in shown.output
    failed = run(app, [*words[:3], "fraud@9", *words[4:]])
    assert isinstance(failed.exception, RegistryError)


def test_registry_of_the_declaration_is_asked_where_no_other_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline that says where its versions are need not be told again."""
    monkeypatch.delenv("TAILRACE_REGISTRY", raising=False)
    declared = f'Model("fraud", version="fraud@one", registry={str(folder / "registry")!r}'
    (folder / "pipeline.py").write_text(PIPELINE.replace('Model("fraud"', declared))
    words = ["models", "register", "--registry", str(folder / "registry"), "--name", "fraud"]
    for name in ("one", "two"):
        assert CliRunner().invoke(app, [*words, "--alias", name, f"{folder}/models/{name}"]).exit_code == 0
    requests = write_lines(folder / "requests.jsonl", PAYMENTS)
    fetched = folder / "fetched"
    fetched.mkdir()
    sides = find_sides("fraud@1", "fraud@two", Place(f"{folder}/pipeline.py", None, RegistryChoice(), fetched))
    assert [side.name for side in sides] == ["fraud@1", "fraud@2"]
    assert what_if(sides, Asking(requests=requests)).flipped == 3


def test_stream_of_either_side_says_what_tells_requests_apart(folder: Path) -> None:
    """Outcomes go by the id of the stream that requests are events of; windows of plain requests are warned of."""
    one = PIPELINE.replace("    id: str\n", "    key: str\n    at: float\n").replace('Model("fraud"', 'Model("one"')
    view = '''
class Recent(tr.StreamFeatureView):
    entity = tr.Entity("customer", key="customer_id")
    stream = tr.Stream("payments", schema=Payment, time="at", id="key")
    count_1h: int = tr.count(window="1h")


def is_first(recent: Recent) -> np.ndarray:
    """Decide what nobody has paid before."""
    return recent.count_1h == 0


@tr.on_demand'''
    other = one.replace("\n@tr.on_demand", view).replace("rules=[", 'rules=[tr.Rule("first", is_first, "review"), ')
    (folder / "now.py").write_text(one)
    (folder / "then.py").write_text(other)
    lines = [{"key": "a", "at": 1.7e9, "customer_id": 1, "amount": 100.0}]
    (folder / "outcomes.csv").write_text("key,is_fraud\na,1\n")
    asked = {"outcomes": folder / "outcomes.csv"}
    found = replay(folder, lines, f"{folder}/now.py", f"{folder}/then.py", **asked)
    assert [(each.rows, each.right) for each in found.ordered] == [(1, 1)]
    assert found.flips[0, 1].examples[0].id == "a"
    assert any("Recent of plain requests look back" in each for each in found.warnings)
