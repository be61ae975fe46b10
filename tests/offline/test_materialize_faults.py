"""The faults of docs/how-to/materialise-features.md.

Never an older value over a newer one, never a mixed row, and never exit code 0 with nothing done.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from customer_runs import (
    DAY_NS,
    NOW,
    NOW_NS,
    PAGE,
    ROWS,
    Folder,
    command,
    csv_lines,
    days,
    editions,
    profiles,
    spec_of,
    stopped_run,
    write_csv,
    write_parquet,
    write_pipeline,
)

from features.redis_server import RedisServer
from tailrace.errors import LeaseError, SourceError, StoreError
from tailrace.features.sources import CSV, SQL, Parquet
from tailrace.features.stores.lmdb_writer import TRANSACTION_ROWS_MAX
from tailrace.features.stores.opening import open_writer

# Ibis 12 calls what DuckDB 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

SPEC = spec_of(Parquet("profile.parquet", time="as_of"))


# -- the clock --------------------------------------------------------------------------------------------------------


def test_clock_set_back_leaves_newer_rows(folder: Folder) -> None:
    """What was true yesterday does not take the place of what is stored as of today."""
    both = {name: first + second for (name, first), second in zip(
        profiles(1, as_of=NOW - days(2)).items(), profiles(2).values(), strict=True)}  # fmt: skip
    write_parquet(folder.path / "profile.parquet", both)
    assert folder.run().written == ROWS
    with pytest.raises(SourceError, match=f"of all {ROWS} entities the store has newer rows"):
        folder.run(now_ns=NOW_NS - DAY_NS)
    assert folder.editions() == [2] * ROWS
    report = folder.run(now_ns=NOW_NS + DAY_NS)
    assert (report.written, report.unchanged) == (0, ROWS)


def test_clock_set_back_without_a_time_column_overwrites_by_run(folder: Folder) -> None:
    """Then the order is that of the runs, whatever the clock says; the row's age is the clock's."""
    source = Parquet("profile.parquet")
    for edition, now_ns in ((1, NOW_NS), (2, NOW_NS + 1_000 * DAY_NS), (3, NOW_NS)):
        write_parquet(folder.path / "profile.parquet", profiles(edition, as_of=None))
        assert folder.run(source, now_ns=now_ns).written == ROWS
        assert folder.editions(spec_of(source)) == [edition] * ROWS


def test_clock_set_back_does_not_go_on_with_a_run_of_the_future(folder: Folder) -> None:
    """How old such a run is cannot be told."""
    write_parquet(folder.path / "profile.parquet", profiles(1))
    folder.interrupt(PAGE, now_ns=NOW_NS + 60 * 10**9)
    assert folder.run(now_ns=NOW_NS).resumed == 0


def test_interrupted_run_goes_on_by_the_time_of_now(folder: Folder) -> None:
    """What came due since is written, not left to a now that is long gone."""
    write_parquet(folder.path / "profile.parquet", profiles(1, as_of=NOW) | {
        "as_of": [NOW] * (ROWS - 1) + [NOW + days(0.02)]})  # fmt: skip
    folder.interrupt(PAGE)
    report = folder.run(now_ns=NOW_NS + DAY_NS // 40)
    assert (report.resumed, report.written, report.later) == (PAGE, ROWS - PAGE, 0)
    folder.interrupt(PAGE, now_ns=NOW_NS)
    assert folder.run(now_ns=NOW_NS + 2 * 3_600 * 10**9).resumed == 0, "after an hour it starts from the beginning"


def test_time_of_a_query_is_due(folder: Folder) -> None:
    """`now() AS as_of` is read before this machine's own now, run after run."""
    write_parquet(folder.path / "profile.parquet", profiles(1, as_of=None))
    (folder.path / "p.sql").write_text("SELECT *, now() AS as_of FROM 'profile.parquet'")
    for _ in range(3):
        report = folder.run(SQL("p.sql", time="as_of"), clock=time.time_ns, skew_ns=0)
        assert (report.written, report.later) == (ROWS, 0)


def test_clock_skew_is_borne_up_to_the_setting(folder: Folder) -> None:
    """A source whose clock is five seconds ahead is taken, by default; one a minute ahead when told."""
    write_parquet(folder.path / "profile.parquet", profiles(1, as_of=NOW + days(5 / 86_400)))
    assert folder.run().written == ROWS
    write_parquet(folder.path / "profile.parquet", profiles(2, as_of=NOW + days(60 / 86_400)))
    with pytest.raises(SourceError, match="--clock-skew"):
        folder.run()
    assert folder.run(skew_ns=90 * 10**9).written == ROWS


# -- two runs at once -------------------------------------------------------------------------------------------------


def test_second_run_is_refused_and_told_who_writes(tmp_path: Path, url: str) -> None:
    """The command ends with 1, says who and since when, and changes nothing; with --wait it takes its turn."""
    write_parquet(tmp_path / "profile.parquet", profiles(1))
    file = write_pipeline(tmp_path / "visits_pipeline.py")
    with stopped_run(file, url, 2 * PAGE) as first:
        refused = command("materialize", file, "--store", url)
        assert refused.returncode == 1
        assert f":{first.pid} since 20" in refused.stderr
        assert "--wait" in refused.stderr
        waiting = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tailrace.cli.main", "materialize", str(file), "--store", url,
             "--wait", "60s", "--json"], stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert first.stdin is not None
        first.stdin.write("\n")
        first.stdin.flush()
        assert first.wait(60) == 0
        told, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert '"run": 2' in told
    assert f'"unchanged": {ROWS}' in told
    with closing(open_writer(url)) as writer:
        assert editions(writer, SPEC) == [1] * ROWS


def test_run_that_lost_its_lease_writes_no_page_more(tmp_path: Path, redis_server: RedisServer) -> None:
    """A process that was paused until its lease had ended wakes beside a later run: it is refused by Redis itself."""
    source = 'tr.Parquet("profile.parquet")'
    write_parquet(tmp_path / "profile.parquet", profiles(1, as_of=None))
    file = write_pipeline(tmp_path / "visits_pipeline.py", source)
    with closing(open_writer(redis_server.url)) as writer:
        with stopped_run(file, redis_server.url, 2 * PAGE, lease_ms=500) as first:
            first.send_signal(signal.SIGSTOP)
            write_parquet(tmp_path / "profile.parquet", profiles(2, as_of=None))
            later = command("materialize", file, "--store", redis_server.url, "--wait", "30s")
            assert later.returncode == 0, later.stderr
            first.send_signal(signal.SIGCONT)
            assert first.stdin is not None
            first.stdin.write("\n")
            first.stdin.flush()
            assert first.wait(60) != 0
            assert first.stderr is not None
            assert "run 1 of Profile may not write any more: run 2 has begun since" in first.stderr.read()
        assert editions(writer, spec_of(Parquet("profile.parquet"))) == [2] * ROWS


def test_run_whose_lease_file_was_removed_writes_no_page_more(folder: Folder) -> None:
    """Two runs that both hold a lock, since one's file was removed by hand: only the later one writes."""
    write_parquet(folder.path / "profile.parquet", profiles(1, as_of=None))

    def run_again(done: int, total: int) -> None:
        if done == 2 * PAGE:
            (folder.path / "store" / "Profile.lease").unlink()
            write_parquet(folder.path / "profile.parquet", profiles(2, as_of=None))
            assert folder.run(Parquet("profile.parquet")).written == ROWS

    with pytest.raises(LeaseError, match="run 2 has begun since"):
        folder.run(Parquet("profile.parquet"), on_progress=run_again)
    assert folder.editions() == [2] * ROWS


# -- a run is killed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page % 2)) for page in range(ROWS // PAGE + 1)]
)
def test_run_killed_at_any_page_goes_on_behind_it(tmp_path: Path, url: str, page: int) -> None:
    """Until then each entity is of the old edition or the new; the next run writes the rest."""
    with closing(open_writer(url)) as writer:
        folder = Folder(tmp_path, writer)
        write_parquet(tmp_path / "profile.parquet", profiles(1, as_of=NOW - days(1)))
        folder.run(now_ns=time.time_ns())
        write_parquet(tmp_path / "profile.parquet", profiles(2))
        file = write_pipeline(tmp_path / "visits_pipeline.py")
        with stopped_run(file, url, page * PAGE, lease_ms=300) as process:
            process.kill()
            process.wait()
        done = page * PAGE
        assert editions(writer, SPEC) == [2] * done + [1] * (ROWS - done)
        report = folder.run(now_ns=time.time_ns(), wait_ns=10 * 10**9)
        is_done = page == ROWS // PAGE
        assert (report.resumed, report.written) == ((0, 0) if is_done else (done, ROWS - done))
        assert editions(writer, SPEC) == [2] * ROWS


# -- sources that change ----------------------------------------------------------------------------------------------


def test_source_that_gets_a_file_while_it_is_read(folder: Folder) -> None:
    """What came later is the next run's; this one's rows are of what it read."""
    source = Parquet("parts/*.parquet", time="as_of")
    write_parquet(folder.path / "parts" / "1.parquet", profiles(1, range(20)))

    def grow(done: int, total: int) -> None:
        write_parquet(folder.path / "parts" / "2.parquet", profiles(2, range(10, ROWS), as_of=NOW + days(0.5)))

    report = folder.run(source, on_progress=grow, prune=True)
    assert (report.written, folder.editions()) == (20, [1] * 20 + [None] * 20)
    report = folder.run(source, now_ns=NOW_NS + DAY_NS)
    assert (report.unchanged, report.written, folder.editions()) == (10, 30, [1] * 10 + [2] * 30)


def test_source_whose_file_grows_while_it_is_read_is_refused(folder: Folder) -> None:
    """A line that is not whole yet would be a row of its own, with a value cut short: nothing is written."""
    source = CSV("profile.csv")
    path = folder.path / "profile.csv"
    lines = csv_lines(profiles(1, as_of=None))
    write_csv(path, profiles(1, range(30), as_of=None))
    with path.open("a") as file:
        file.write(lines[30][:-2])

    rest = iter(["", lines[30][-2:] + lines[31]])  # the clock is asked again once the source has been read

    def append_when_read() -> int:
        with path.open("a") as file:
            file.write(next(rest))
        return NOW_NS

    with pytest.raises(SourceError, match="changed while it was read"):
        folder.run(source, clock=append_when_read)
    assert folder.editions() == [None] * ROWS
    assert folder.run(source).written == 32
    assert folder.editions() == [1] * 32 + [None] * 8


def test_query_of_what_no_fingerprint_shows_starts_anew_after_a_while(folder: Folder) -> None:
    """A table of another machine may have changed: how old an interrupted run may be bounds what is missed."""
    source = SQL("p.sql", time="as_of")
    (folder.path / "p.sql").write_text("SELECT * FROM read_parquet('rem' || 'ote.parquet')")
    write_parquet(folder.path / "remote.parquet", profiles(1, as_of=NOW - days(1)))
    folder.interrupt(2 * PAGE, source)
    write_parquet(folder.path / "remote.parquet", profiles(2))
    soon = folder.run(source, now_ns=NOW_NS + 60 * 10**9)
    assert (soon.resumed, folder.editions()) == (2 * PAGE, [1] * 20 + [2] * 20)
    write_parquet(folder.path / "remote.parquet", profiles(3, as_of=NOW + days(1)))
    folder.interrupt(2 * PAGE, source, now_ns=NOW_NS + DAY_NS)
    write_parquet(folder.path / "remote.parquet", profiles(4, as_of=NOW + days(2)))
    late = folder.run(source, now_ns=NOW_NS + 2 * DAY_NS)
    assert (late.resumed, late.written, folder.editions()) == (0, ROWS, [4] * ROWS)


def test_source_that_goes_back_leaves_newer_rows(folder: Folder) -> None:
    """A source that was restored from yesterday is told, and overwrites nothing."""
    write_parquet(folder.path / "profile.parquet", profiles(2))
    folder.run()
    write_parquet(folder.path / "profile.parquet", profiles(1, as_of=NOW - days(1)))
    with pytest.raises(SourceError, match="the store has newer rows"):
        folder.run()
    mixed = profiles(1, range(20), as_of=NOW - days(1)), profiles(3, range(20, ROWS), as_of=NOW)
    write_parquet(folder.path / "profile.parquet", {name: mixed[0][name] + mixed[1][name] for name in mixed[0]})
    report = folder.run()
    assert (report.older, report.written, folder.editions()) == (20, 20, [2] * 20 + [3] * 20)
    assert folder.run(take_over=True).written == 20
    assert folder.editions() == [1] * 20 + [3] * 20, "what was set back on purpose"
    assert folder.run().unchanged == ROWS


def test_older_rows_of_a_run_that_goes_on_are_told_as_of_one_that_does_not(folder: Folder) -> None:
    """Killed behind its first page, a run of older rows ends with 1 in the next; one row that was written is enough."""
    write_parquet(folder.path / "profile.parquet", profiles(2))
    folder.run()
    older = profiles(1, as_of=NOW - days(1))
    write_parquet(folder.path / "profile.parquet", older)
    folder.interrupt(PAGE)
    with pytest.raises(SourceError, match=f"of all {ROWS} entities the store has newer rows"):
        folder.run()
    assert folder.editions() == [2] * ROWS
    mixed = profiles(3, range(1)), profiles(1, range(1, ROWS), as_of=NOW - days(1))
    write_parquet(folder.path / "profile.parquet", {name: mixed[0][name] + mixed[1][name] for name in older})
    folder.interrupt(PAGE)
    report = folder.run()
    assert (report.resumed, report.written, report.older) == (PAGE, 0, ROWS - PAGE)
    assert folder.editions() == [3] + [2] * (ROWS - 1)


# -- sources with nothing to write ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "the source has no rows"),
        (["1,1.0,1,Rom,2100-01-01\n", "2,1.0,1,Rom,2100-01-01\n"], "2 of 2 rows are true only later than now"),
        (["1,x,1,Rom,2025-01-01\n"], "all 1 rows are bad"),
        (["1,x,1,Rom,2025-01-01\n", "2,1.0,1,Rom,2100-01-01\n"], "1 of 2 rows are true only later than now and 1 are"),
    ],
)
def test_command_with_nothing_to_write_ends_with_1(tmp_path: Path, lines: list[str], why: str) -> None:
    """Whoever reads only the exit code is not told of success; what is stored stays."""
    file = write_pipeline(tmp_path / "visits_pipeline.py", 'tr.CSV("p.csv", time="as_of")')
    write_csv(tmp_path / "p.csv", profiles(1, as_of=None) | {"as_of": ["2025-06-01"] * ROWS})
    assert command("materialize", file).returncode == 0
    (tmp_path / "p.csv").write_text("".join(["customer_id,amount,edition,city,as_of\n", *lines]))
    ended = command("materialize", file, "--prune", "--prune-max", "1")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert why in ended.stderr
    assert "next: " in ended.stderr
    with closing(open_writer(f"lmdb:{tmp_path / 'store'}")) as writer:
        assert editions(writer, SPEC) == [1] * ROWS


def test_empty_source_that_is_allowed_leaves_the_store_as_it_is(folder: Folder) -> None:
    """It prunes nothing, not even when told to."""
    source = CSV("p.csv")
    write_csv(folder.path / "p.csv", profiles(1, as_of=None))
    folder.run(source)
    write_csv(folder.path / "p.csv", profiles(1, range(0), as_of=None))
    report = folder.run(source, allow_empty=True, prune=True, prune_max=1.0)
    assert (report.read, report.written, report.pruned) == (0, 0, 0)
    assert folder.editions() == [1] * ROWS


# -- stores -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder on a disk of two megabytes."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk needs root: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_full_disk_ends_with_1_and_the_next_run_goes_on(tmp_path: Path, small_disk: Path) -> None:
    """Transactions before it are there, whole; with room the rest is written."""
    count = 40_000
    write_parquet(tmp_path / "profile.parquet", profiles(1, range(count)))
    file = write_pipeline(tmp_path / "visits_pipeline.py")
    url = f"lmdb:{small_disk / 'store'}"
    full = command("materialize", file, "--store", url, "--batch-rows", "2000")
    assert full.returncode == 1
    assert "cannot be written" in full.stderr
    assert "see that the disk has room" in full.stderr
    with closing(open_writer(url)) as writer:
        held = editions(writer, SPEC, range(count))
    written = held.index(None)
    assert 0 < written < count
    assert written % TRANSACTION_ROWS_MAX == 0
    assert held == [1] * written + [None] * (count - written)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    more = command("materialize", file, "--store", url, "--json")
    assert f'"resumed": {written - written % 2_000}' in more.stdout, more.stderr
    with closing(open_writer(url)) as writer:
        assert editions(writer, SPEC, range(count)) == [1] * count


@pytest.mark.slow  # it fills a Redis
def test_full_redis_ends_with_1_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """A Redis at its limit of memory refuses, and what it took before is whole."""
    server = RedisServer(tmp_path, ["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"])
    server.start()
    try:
        count = 20_000
        write_parquet(tmp_path / "profile.parquet", profiles(1, range(count)))
        file = write_pipeline(tmp_path / "visits_pipeline.py")
        full = command("materialize", file, "--store", server.url, "--batch-rows", "1000")
        assert full.returncode == 1
        assert "OOM" in full.stderr or "maxmemory" in full.stderr
        with closing(open_writer(server.url)) as writer:
            held = set(editions(writer, SPEC, range(count)))
            assert held == {1, None}
            writer.ask("CONFIG", "SET", "maxmemory", "0")  # type: ignore[attr-defined]
        more = command("materialize", file, "--store", server.url, "--wait", "40s")
        assert more.returncode == 0, more.stderr
        with closing(open_writer(server.url)) as writer:
            assert editions(writer, SPEC, range(count)) == [1] * count
    finally:
        server.kill()


def test_redis_gone_in_the_middle_ends_with_1(tmp_path: Path, redis_server: RedisServer) -> None:
    """Nothing is told as done; once Redis is back, though empty, the next run writes all."""
    write_parquet(tmp_path / "profile.parquet", profiles(1))
    file = write_pipeline(tmp_path / "visits_pipeline.py")
    with stopped_run(file, redis_server.url, 2 * PAGE) as process:
        redis_server.kill()
        _, told = process.communicate("\n", timeout=60)
        assert process.returncode != 0
        assert "Redis refused a script" in told
    assert command("materialize", file, "--store", redis_server.url).returncode == 1
    redis_server.start()
    assert command("materialize", file, "--store", redis_server.url).returncode == 0
    with closing(open_writer(redis_server.url)) as writer:
        assert editions(writer, SPEC) == [1] * ROWS


def test_redis_that_came_back_empty_in_the_middle_ends_the_run_with_1(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Half of the rows would be missing, so the run does not end as if all were there."""
    write_parquet(tmp_path / "profile.parquet", profiles(1))
    file = write_pipeline(tmp_path / "visits_pipeline.py")
    with stopped_run(file, redis_server.url, 2 * PAGE) as process:
        redis_server.kill()
        redis_server.start()
        _, told = process.communicate("\n", timeout=60)
        assert process.returncode != 0
        assert "the store has been emptied since it began" in told


def test_lmdb_replaced_in_the_middle_ends_with_an_error(folder: Folder) -> None:
    """LMDB would go on writing a file that nobody can read any more."""
    write_parquet(folder.path / "profile.parquet", profiles(1))

    def replace(done: int, total: int) -> None:
        if done == 2 * PAGE:
            os.rename(folder.path / "store", folder.path / "old")
            (folder.path / "store").mkdir()
            (folder.path / "store" / "data.mdb").write_bytes((folder.path / "old" / "data.mdb").read_bytes())

    with pytest.raises(StoreError, match="replaced"):
        folder.run(on_progress=replace)


def test_lmdb_removed_in_the_middle_ends_with_an_error(folder: Folder) -> None:
    """The same where nothing is in its place."""
    write_parquet(folder.path / "profile.parquet", profiles(1))
    with pytest.raises(StoreError):
        folder.run(on_progress=lambda done, total: os.rename(folder.path / "store", folder.path / f"old {done}"))
