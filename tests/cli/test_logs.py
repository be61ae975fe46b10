"""`tailrace logs`: the last lines, those to come, what SQL finds, and nothing else of the machine."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from log_writers import HOUR_S, NOON_S, Now, Write, at, ns, numbered, writers
from tailrace.cli.logs import logs
from tailrace.errors import SetupError, SourceError
from tailrace.offline.log.query import TRIES_MAX

app = typer.Typer()  # of one command: making all of them takes longer than each test
app.command()(logs)


@pytest.fixture
def now() -> Now:
    """Return a clock that shows noon."""
    return Now()


@pytest.fixture
def write(tmp_path: Path, now: Now) -> Iterator[Write]:
    """Return what makes a writer of a pipeline's log."""
    with writers(tmp_path / "log", now) as write:
        yield write


@pytest.fixture
def log(tmp_path: Path, now: Now, write: Write) -> str:
    """Return a log of 30 lines: a whole file, and a draft of the next hour. Every third line is degraded."""
    files = write()
    for hour in range(2):
        now.s = NOON_S + HOUR_S * hour + 1
        degraded = (np.arange(15) % 3 == 0).astype(np.uint8)
        answered = ns(HOUR_S * hour) + np.arange(15) * 1_000_000
        files.write([at(HOUR_S * hour, 15 * hour, 15, degraded=degraded, answered_ns=answered)])
    return str(tmp_path / "log")


def shown(*arguments: str) -> str:
    """Return what the command prints. Raises what it raises."""
    result = CliRunner().invoke(app, [*arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_last_lines_are_shown(log: str) -> None:
    """Who asked when, and what was decided, in how long; the newest below."""
    header, *lines = shown(log).splitlines()
    assert header.split() == ["time", "id", "score", "decision", "degraded", "ms"]
    assert len(lines) == 20
    assert lines[-1].split() == ["2025-06-16", "13:00:00.014", "r29", "2.9000", "allow", "0.01"]
    assert lines[-3].split()[5:] == ["stale_features", "0.01"]
    assert len(shown(log, "fraud", "-n", "3").splitlines()) == 4


def test_condition_and_columns(log: str) -> None:
    """Any condition of SQL, and features by their names."""
    arguments = ("--where", "score >= 1.2 AND degraded IS NOT NULL", "--columns", "request_id,features.Profile.kind")
    assert [line.split() for line in shown(log, *arguments).splitlines()] == [
        ["request_id", "features.Profile.kind"], *([f"r{n}", "a"] for n in (12, 15, 18, 21, 24, 27)),
    ]  # fmt: skip
    with pytest.raises(SetupError, match=r"no column 'features\.Profil'(.|\n)*name one of features\.Profile\.kind"):
        shown(log, "--columns", "features.Profil")


def test_time_bounds_what_is_shown(log: str) -> None:
    """Since and until are times, or so long ago."""
    at_one = ("--since", "2025-06-16T13:00", "--json")
    assert [json.loads(line)["request_id"] for line in shown(log, *at_one).splitlines()] == numbered(15, 15)
    assert len(shown(log, "--until", "2025-06-16T13:00Z", "--json").splitlines()) == 15
    assert shown(log, "--since", "10m", "--json") == ""
    with pytest.raises(SetupError, match="'yesterday' is no time"):
        shown(log, "--since", "yesterday")


def test_that_no_line_is_found_is_told(log: str) -> None:
    """To a person: a program sees it."""
    for more, told in (([], "no line is found\n"), (["--json"], "")):
        result = CliRunner().invoke(app, [log, "--where", "score > 99", *more])
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", told)


def test_query_sees_the_log_as_a_table(log: str) -> None:
    """With all of SQL."""
    query = "SELECT degraded[1] AS why, count(*) AS n, max(score) AS most FROM log GROUP BY 1 ORDER BY 2"
    assert [line.split() for line in shown(log, "--sql", query).splitlines()] == [
        ["why", "n", "most"], ["stale_features", "10", "2.7000"], ["–", "20", "2.9000"],
    ]  # fmt: skip
    assert json.loads(shown(log, "--json", "--sql", "SELECT sum(score::DECIMAL(9,1)) s FROM log")) == {"s": 43.5}


def test_programs_read_all_lines(log: str, tmp_path: Path) -> None:
    """As JSON, as CSV, or from a Parquet file."""
    lines = [json.loads(line) for line in shown(log, "--json").splitlines()]
    assert [line["request_id"] for line in lines] == numbered(0, 30)
    assert lines[0]["time"] == "2025-06-16T12:00:00Z"
    assert lines[0]["features"] == {"amount": 0.0, "Profile.kind": "a", "v": [1.0, 1.0, 1.0]}
    assert [lines[0]["degraded"], lines[1]["degraded"]] == [["stale_features"], None]
    rows = list(csv.DictReader(shown(log, "--csv").splitlines()))
    assert [row["request_id"] for row in rows] == numbered(0, 30)
    assert json.loads(rows[3]["features"])["amount"] == 3.0
    file = tmp_path / "out.parquet"
    assert shown(log, "--parquet", str(file)) == f"{file}: 30 lines\n"
    assert pq.read_table(file)["request_id"].to_pylist() == numbered(0, 30)
    with pytest.raises(SourceError, match="no line is found"):
        shown(log, "--parquet", str(tmp_path / "none.parquet"), "--where", "score > 99")
    assert not (tmp_path / "none.parquet").exists()


@pytest.mark.parametrize(
    ("query", "match"),
    [
        ("SELEC 1", 'Parser Error: syntax error at or near "SELEC"'),
        ("SELECT scor FROM log", 'column "scor" not found in the log; Candidate bindings: "score"'),
        ("SELECT 1; SELECT 2", "not one SELECT"),
        ("COPY log TO 'out.csv'", "not one SELECT"),
        ("SET memory_limit = '1TB'", "not one SELECT"),
        ("INSTALL httpfs", "not one SELECT"),
        ("SELECT * FROM read_text('/etc/hostname')", "disabled by configuration"),
        ("SELECT * FROM '/etc/hostname'", "does not exist"),
        ("SELECT * FROM glob('/etc/*')", "disabled by configuration"),
        ("SELECT * FROM query", "does not exist"),
        ("SELECT request_id::INT FROM log", "Could not convert"),
    ],
)
def test_query_that_is_wrong_or_wants_more_is_refused(log: str, query: str, match: str) -> None:
    """A query reads the log and nothing else, and its mistakes are told as DuckDB tells them."""
    with pytest.raises(SourceError, match=match):
        shown(log, "--sql", query)


@pytest.mark.parametrize(
    "query",
    [
        "EXPLAIN ANALYZE {copy}",
        "WITH x AS ({copy}) SELECT * FROM x",
        "FROM json_execute_serialized_sql(json_serialize_sql('WITH x AS ({quoted}) FROM x'))",
        "FROM query('FROM json_exec' || 'ute_serialized_sql(json_serialize_sql(''SELECT 1''))')",
    ],
)
def test_query_does_not_write_into_the_files_that_it_reads(log: str, query: str) -> None:
    """Nor does one that DuckDB takes for a SELECT, and that writes beside it."""
    file = next(Path(log).glob("fraud/*/*.parquet"))
    before = file.read_bytes()
    copy = f"COPY (SELECT 1) TO '{file}' (FORMAT csv, USE_TMP_FILE false)"
    with pytest.raises(SourceError, match=r"not one SELECT|syntax error|CTE"):
        shown(log, "--sql", query.format(copy=copy, quoted=copy.replace("'", "''")))
    assert file.read_bytes() == before


@pytest.mark.parametrize("query", ["SELECT 'copy' AS is_query", "FROM query('SELECT ''copy'' AS is_query')"])
def test_query_may_name_what_writes(log: str, query: str) -> None:
    """What it would do counts, not the words."""
    assert json.loads(shown(log, "--json", "--sql", query)) == {"is_query": "copy"}


@pytest.mark.parametrize("more", [[], ["--json"], ["--csv"], ["--parquet", "out.parquet"]])
def test_two_columns_of_one_name_are_refused(log: str, more: list[str], tmp_path: Path) -> None:
    """A join gives them: each way of showing lines would lose one."""
    more = [str(tmp_path / each) if each.endswith(".parquet") else each for each in more]
    with pytest.raises(SourceError, match="two columns are called 'slot'"):
        shown(log, *more, "--sql", "SELECT a.slot, b.slot FROM log a JOIN log b USING (request_id)")
    with pytest.raises(SourceError, match="two columns are called 'slot'"):
        shown(log, *more, "--columns", "slot,time,slot")


def test_condition_cannot_do_more_than_a_query(log: str) -> None:
    """It stands in one."""
    with pytest.raises(SourceError, match='syntax error at or near ";"'):
        shown(log, "--where", "true); COPY log TO 'out.csv'; SELECT (1")


def test_damaged_files_are_named_and_the_others_read(log: str, tmp_path: Path, now: Now, write: Write) -> None:
    """Whether their index is cut off, or something within is wrong."""
    files = write()
    for second in (1, 2):
        now.s += second
        files.write([at(0, 100 * second, 50)])
        files.seal()
    cut, damaged = sorted((tmp_path / "log" / "fraud" / "2025-06-16T13").glob("*.parquet"))
    os.truncate(cut, cut.stat().st_size - 5)
    data = bytearray(damaged.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    damaged.write_bytes(data)
    result = CliRunner().invoke(app, [log, "--json"])
    assert [json.loads(line)["request_id"] for line in result.stdout.splitlines()] == numbered(0, 30)
    told = result.stderr.splitlines()
    assert [line.partition(": ")[2].rpartition(": ")[0].partition(": ")[0] for line in told] == [str(cut), str(damaged)]


@pytest.mark.parametrize("text", [b"release", b"blue-green", b"allow"])
def test_text_that_is_damaged_costs_its_file_alone(
    log: str, tmp_path: Path, now: Now, write: Write, text: bytes
) -> None:
    """The name of a column, or a value: Arrow takes what is no text, and DuckDB does not."""
    files = write()
    now.s += 1
    files.write([at(0, 100, 50, release="blue-green")])
    files.seal()
    damaged = max((tmp_path / "log" / "fraud" / "2025-06-16T13").glob("*.parquet"))
    pq.write_table(pq.read_table(damaged), damaged, compression="none")
    damaged.write_bytes(damaged.read_bytes().replace(text, b"\xa2" + text[1:]))
    result = CliRunner().invoke(app, [log, "--json"])
    assert [json.loads(line)["request_id"] for line in result.stdout.splitlines()] == numbered(0, 30)
    assert str(damaged) in result.stderr


def test_log_that_is_swept_while_it_is_asked_is_asked_again(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is read; where files go again and again, that is told."""
    from tailrace.offline.log import database

    make_view = database.LogDatabase._make_view
    tries = 0

    def sweep(opened: database.LogDatabase, folder: Path) -> None:
        nonlocal tries
        tries += 1
        oldest = min(Path(log).rglob("*.parquet"), default=None)
        if oldest is not None:
            oldest.unlink()
        make_view(opened, folder)

    monkeypatch.setattr(database.LogDatabase, "_make_view", sweep)
    assert [json.loads(line)["request_id"] for line in shown(log, "--json").splitlines()] == numbered(15, 15)
    assert 1 < tries <= TRIES_MAX


def test_new_lines_are_shown_as_they_come(log: str, now: Now, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the condition, over the end of an hour and a change of features, until Ctrl-C."""
    other = write()

    def next_moment(seconds: float) -> None:
        now.s += HOUR_S / 2
        if now.s > NOON_S + 4 * HOUR_S:
            raise KeyboardInterrupt
        count = int((now.s - NOON_S) / HOUR_S * 100)
        features = {"amount": np.ones(2)} if count < 300 else {"size": np.ones(2), "v": np.ones(2)}
        other.write([at(now.s - NOON_S, count, 2, features=features)])

    monkeypatch.setattr(time, "time_ns", lambda: int(now.s * 1e9))
    monkeypatch.setattr(time, "sleep", next_moment)
    found = shown(log, "--follow", "--json", "--columns", "request_id", "--where", "score > 2.75")
    assert [json.loads(line)["request_id"] for line in found.splitlines()] == [
        "r28", "r29", *(f"r{number + step}" for number in (150, 200, 250, 300, 350) for step in (0, 1)),
    ]  # fmt: skip


def test_followed_lines_may_change_their_kind(
    tmp_path: Path, now: Now, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that come between two looks are shown, of whatever schema."""
    files = write()
    files.write([at(0, 0, 1)])
    looks = 0

    def next_moment(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks > 2:
            raise KeyboardInterrupt
        now.s += 1
        features: list[dict[str, np.ndarray]] = [{"size": np.ones(1)}, {"size": np.ones((1, 2))}, {"size": np.ones(1)}]
        files.write([at(now.s - NOON_S, 10 * looks + place, 1, features=each) for place, each in enumerate(features)])

    monkeypatch.setattr(time, "time_ns", lambda: int(now.s * 1e9))
    monkeypatch.setattr(time, "sleep", next_moment)
    found = shown(str(tmp_path / "log"), "-f", "--json", "--columns", "request_id")
    assert [json.loads(line)["request_id"] for line in found.splitlines()] == [
        "r0", "r10", "r11", "r12", "r20", "r21", "r22",
    ]  # fmt: skip


def test_names_of_folders_are_no_columns(tmp_path: Path, now: Now) -> None:
    """As DuckDB takes them to be, nor patterns."""
    root = tmp_path / "score=5" / "a[1]*"
    with writers(root, now) as write:
        files = write()
        files.write([at(0, 0, 1)])
        files.seal()
        assert json.loads(shown(str(root), "--json", "--columns", "score")) == {"score": 0.0}


@pytest.mark.parametrize(
    "options", ["--json --csv", "--follow --sql SELECT", "-f --parquet x", "--sql x --where y", "--sql x -n 0"]
)
def test_options_that_do_not_go_together_are_refused(log: str, options: str) -> None:
    """Before anything is read."""
    with pytest.raises(SetupError, match="do not go together"):
        shown(log, *options.split())


def test_escapes_of_a_caller_do_not_reach_the_terminal(tmp_path: Path, write: Write) -> None:
    """An id is what its caller made it."""
    write().write([at(0, 0, 1, request_ids=["\x1b[31mred\x07"])])
    assert "?[31mred?" in shown(str(tmp_path / "log"))
    assert "\x1b" not in shown(str(tmp_path / "log"), "--columns", "request_id,time")


def test_log_of_which_nothing_can_be_read_is_no_success(tmp_path: Path, write: Write) -> None:
    """Though the files are told of."""
    files = write()
    files.write([at(0, 0, 1)])
    files.seal()
    (path,) = tmp_path.rglob("*.parquet")
    os.truncate(path, 20)
    result = CliRunner().invoke(app, [str(tmp_path / "log")])
    assert (result.exit_code, str(path) in result.stderr) == (1, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_log_of_another_user_is_told(log: str) -> None:
    """With whom to read it as."""
    folder = next((Path(log) / "fraud").iterdir())
    folder.chmod(0)
    try:
        with pytest.raises(SetupError, match=r"Permission denied(.|\n)*as the user that the server runs as"):
            shown(log)
    finally:
        folder.chmod(0o700)


def test_call_that_was_answered_by_another_is_shared(tmp_path: Path, write: Write) -> None:
    """It has no score of its own; one that failed says how."""
    lines = at(0, 0, 2)
    nothing = pa.nulls(2, pa.float64())
    lines = lines.set_column(lines.schema.get_field_index("score"), "score", nothing)
    lines = lines.set_column(lines.schema.get_field_index("coalesced"), "coalesced", pa.array(["kept", None]))
    lines = lines.set_column(lines.schema.get_field_index("error"), "error", pa.array([None, "OutOfTimeError"]))
    write().write([lines])
    told = shown(str(tmp_path / "log"))
    assert [line.split()[3] for line in told.splitlines()[1:]] == ["shared", "OutOfTimeError"]


def test_empty_log_is_told(tmp_path: Path) -> None:
    """With what to do."""
    with pytest.raises(SetupError, match="the log has no lines"):
        shown(str(tmp_path))
