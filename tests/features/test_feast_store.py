"""Feast's online stores read as they are: beside a real Feast, on SQLite and on a real Redis."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis
import uvloop
from redis_server import RedisServer

import tailrace as tr
from feast_repository import FeastRepository
from tailrace.batch import Provenance
from tailrace.compile.compiler import compile_plan
from tailrace.compile.materialised import CheckedViews, check_views
from tailrace.deadline import NS_PER_S, MonotonicClock
from tailrace.errors import CompileError, NoStoreError, StoreError
from tailrace.features.feast.keys import FeastKeys
from tailrace.features.keys import EntityId, composite_id
from tailrace.features.stores.memory import MemoryStore
from tailrace.features.stores.opening import open_store, open_writer, resolve_url
from tailrace.features.stores.protocol import OnlineStore, codec_of
from tailrace.features.stores.redis_link import RedisConnection
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import ViewSpec
from tailrace.pipeline import Pipeline

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # Feast is installed and started first

CUSTOMERS: list[EntityId] = [1, 2, 3, -4, 99]
SHOPS: list[EntityId] = ["s-1", "søndag", "3", "nowhere"]
BRANCHES: list[EntityId] = [1, 2, -3, 4]
PAIRS: list[tuple[int, str]] = [(1, "s-1"), (1, 'a,"b'), (-4, "s-1"), (-4, 'a,"b')]

customer = tr.Entity("customer", key="customer_id")


class CustomerStats(tr.BatchFeatureView):
    """Of an entity of int64."""

    entity = customer
    source = tr.Parquet("customers.parquet")
    max_staleness = "7d"
    feast = tr.FeastView("customer_stats", join_key="customer_id", features={"spent": "mean"})
    payments: int = -1
    spent: float = -1.0
    city: str = "?"


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Yield a runner on the loop that workers use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(params=["sqlite", "redis"])
def repository(request: pytest.FixtureRequest) -> FeastRepository:
    """Return a repository on each store."""
    found = request.getfixturevalue(f"feast_on_{request.param}")
    return found[0] if request.param == "redis" else found  # type: ignore[no-any-return]


def later_ns() -> int:
    """Return a deadline that nothing here reaches."""
    return time.monotonic_ns() + 10 * NS_PER_S


async def read(store: OnlineStore, spec: ViewSpec, ids: Sequence[EntityId]) -> ViewRows:
    """Return a view's rows as they are served."""
    codec = codec_of(store, spec)
    await store.open()
    try:
        rows = await store.fetch(codec.keys(ids), later_ns())
        return codec.unpack(ids, rows, time.time_ns())
    finally:
        store.close()


def told(rows: ViewRows, spec: ViewSpec) -> dict[str, list[Any]]:
    """Return what rows hold of each feature, None for null or unknown."""
    known = rows.provenance <= Provenance.STALE
    found: dict[str, list[Any]] = {}
    for place, column in enumerate(spec.columns):
        values = rows.column(column.name).tolist()
        nulls = [False] * len(values) if rows.nulls is None else rows.nulls[:, place].tolist()
        pairs = zip(values, nulls, known.tolist(), strict=True)
        found[column.name] = [value if is_known and not is_null else None for value, is_null, is_known in pairs]
        defaults = [value for value, null, is_known in zip(values, nulls, known, strict=True) if null or not is_known]
        assert defaults == [column.default] * len(defaults)
    return found


def test_every_feature_is_what_feast_says(repository: FeastRepository, runner: asyncio.Runner) -> None:
    """Of every type, null or not, known or not, on either store and of either key version, as Feast answers it."""
    module = repository.imported
    asked = {"CustomerStats": CUSTOMERS, "CustomerLists": CUSTOMERS, "ShopStats": SHOPS, "BranchStats": BRANCHES}
    specs = {name: getattr(module, name).spec for name in asked}
    questions = [
        (
            [f"{spec.feast.name}:{spec.feast.feature(column.name)}" for column in spec.columns],
            [{spec.feast.join_key: each} for each in asked[name]],
        )
        for name, spec in specs.items()
    ]
    asked["PairStats"] = [composite_id(pair) for pair in PAIRS]
    specs["PairStats"] = module.PairStats.spec
    assert specs["PairStats"].entity.key == ("customer_id", "shop_id")
    questions.append((["pair_stats:visits"], [{"customer_id": one, "shop_id": other} for one, other in PAIRS]))
    for (name, spec), expected in zip(specs.items(), repository.ask(questions), strict=True):
        assert not spec.problems
        rows = runner.run(read(open_store(module.STORE, MonotonicClock()), spec, asked[name]))
        assert rows.errors == 0
        found = told(rows, spec)
        assert found == {column: expected[spec.feast.feature(column)] for column in found}
        assert [value for values in found.values() for value in values if value is not None]


def test_provenance_is_as_of_batch_views(repository: FeastRepository, runner: asyncio.Runner) -> None:
    """Feast's ttl makes an old row stale, an entity without a row has the defaults."""
    rows = runner.run(read(open_store(repository.imported.STORE, MonotonicClock()), CustomerStats.spec, CUSTOMERS))
    fresh, stale, default = Provenance.FRESH, Provenance.STALE, Provenance.DEFAULT
    assert rows.provenance.tolist() == [fresh, fresh, stale, fresh, default]


def test_store_of_feast_is_read_by_a_plan(
    repository: FeastRepository, runner: asyncio.Runner, pipeline_of: Callable[[str], Pipeline],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A pipeline whose views say how Feast calls them is compiled, checked and served from Feast's store."""
    payment = pipeline_of("payment")
    calls = [tr.FeastView("customer_stats", "customer_id",
                          features={"avg_amount": "mean", "chargebacks": "payments", "watched": "is_new"}),
             tr.FeastView("shop_stats", "shop_id", features={"fraud_rate": "sales", "country": "class"})]  # fmt: skip
    for view, feast in zip(payment.views, calls, strict=True):
        monkeypatch.setattr(view, "spec", replace(view.spec, feast=feast))  # type: ignore[type-var]
    clock = MonotonicClock()
    plan = compile_plan(payment, open_store(repository.imported.STORE, clock), clock=clock)

    async def serve() -> list[ViewRows]:
        await plan.open()
        assert await check_views(plan, clock, refuse=True) == CheckedViews()
        return await plan.features.retrieval.read([[1, 2], ["søndag", "s-1"]], later_ns())

    try:
        customers, terminals = runner.run(serve())
    finally:
        plan.close()
    assert customers.column("chargebacks").tolist() == [8, 0]
    assert terminals.column("fraud_rate").tolist() == [6.0, 5.0]
    assert terminals.column("country").tolist() == ["b", "a"]


def test_view_that_feast_cannot_hold_is_a_compile_error(pipeline_of: Callable[[str], Pipeline]) -> None:
    """Batch views that do not say how Feast calls them, and stream views: each is told, with what to write."""
    store = open_store("feast+redis://127.0.0.1:1/0?project=shop", MonotonicClock())
    with pytest.raises(CompileError) as caught:
        compile_plan(pipeline_of("payment"), store)
    assert [problem.where for problem in caught.value.problems] == [
        "features.CustomerProfile", "features.TerminalProfile",
    ]  # fmt: skip
    assert "tr.FeastView" in caught.value.problems[0].next
    with pytest.raises(CompileError, match="batch views alone"):
        compile_plan(replace(pipeline_of("activity"), record_requests=False), store)


def test_check_tells_the_views_that_the_store_cannot_hold(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A plan that was compiled beside the store, as `tailrace check` does, is held to it all the same."""
    clock = MonotonicClock()
    plan = compile_plan(pipeline_of("payment"), MemoryStore(), clock=clock)
    store = open_store("feast+redis://127.0.0.1:1/0?project=shop", clock)
    unfit = asyncio.run(check_views(replace(plan, store=store), clock, refuse=False)).unfit
    assert ["features.CustomerProfile" in unfit[0], "features.TerminalProfile" in unfit[1]] == [True, True]
    with pytest.raises(StoreError, match="does not say how Feast calls it"):
        asyncio.run(check_views(replace(plan, store=store), clock, refuse=True))
    plan.close()


# -- Redis ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_redis(redis_server: RedisServer) -> OnlineStore:
    """Return a store of Feast's on a Redis of this test's own."""
    return open_store(f"feast+{redis_server.url}?project=shop", MonotonicClock())


def test_batch_is_one_write_and_one_round_trip(
    feast_on_redis: tuple[FeastRepository, RedisServer], runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many entities there are, all commands go out at once."""
    writes: list[int] = []
    send_packed = RedisConnection.send_packed

    def counting(connection: RedisConnection, commands: list[bytes], *rest: Any) -> None:
        writes.append(len(commands))
        send_packed(connection, commands, *rest)

    monkeypatch.setattr(RedisConnection, "send_packed", counting)
    store = open_store(f"feast+{feast_on_redis[1].url}?project=shop", MonotonicClock())
    rows = runner.run(read(store, CustomerStats.spec, list(range(1, 1_001))))
    assert writes == [1_000]
    assert rows.column("payments").tolist()[:3] == [8, 0, -(2**62)]


def test_another_project_is_another_store(
    feast_on_redis: tuple[FeastRepository, RedisServer], runner: asyncio.Runner
) -> None:
    """The project is part of Feast's keys."""
    store = open_store(f"feast+{feast_on_redis[1].url}?project=other", MonotonicClock())
    rows = runner.run(read(store, CustomerStats.spec, CUSTOMERS))
    assert rows.provenance.tolist() == [Provenance.DEFAULT] * len(CUSTOMERS)


def test_what_is_broken_in_redis_spoils_its_own_row_alone(
    redis_server: RedisServer, on_redis: OnlineStore, runner: asyncio.Runner
) -> None:
    """A key of another type, a time that is none, a value that is none: defaults, counted; the neighbour is served."""
    view = CustomerStats.spec.feast
    assert view is not None
    names = [key[2:] + b"shop" for key in FeastKeys(view, 0, 3).keys([1, 2, 3, 4])]
    city = bytes.fromhex("12044f736c6f")
    with redis.Redis(port=redis_server.port) as client:
        client.set(names[0], b"text")
        client.hset(names[1], mapping={b"_ts:customer_stats": b"\x08"})
        client.hset(names[2], mapping={b"_ts:customer_stats": b"", _field("city"): city[:-1]})
        client.hset(names[3], mapping={b"_ts:customer_stats": b"", _field("city"): city})
    rows = runner.run(read(on_redis, CustomerStats.spec, [1, 2, 3, 4]))
    assert rows.errors == 3
    assert rows.column("city").tolist() == ["?", "?", "?", "Oslo"]
    assert rows.provenance.tolist() == [Provenance.DEFAULT] * 3 + [Provenance.STALE]


def _field(feature: str) -> bytes:
    from tailrace.features.feast.murmur import murmur3

    return murmur3(f"customer_stats:{feature}".encode()).to_bytes(4, "little")


def test_reads_that_are_cancelled_give_nobody_anothers_values(
    redis_server: RedisServer, on_redis: OnlineStore, runner: asyncio.Runner
) -> None:
    """Replies are matched by their order: what nobody waits for any more is dropped in its place."""
    view = CustomerStats.spec.feast
    assert view is not None
    ids: list[EntityId] = list(range(100))
    with redis.Redis(port=redis_server.port) as client:
        for each, key in zip(ids, FeastKeys(view, 0, 3).keys(ids), strict=True):
            client.hset(
                key[2:] + b"shop", mapping={b"_ts:customer_stats": b"", _field("payments"): bytes([0x20, int(each)])}
            )
    codec, random = codec_of(on_redis, CustomerStats.spec), Random(9)

    async def one(some: list[EntityId]) -> bool:
        rows = codec.unpack(some, await on_redis.fetch(codec.keys(some), later_ns()), 0)
        return rows.column("payments").tolist() == some and not rows.errors

    async def many() -> list[bool | BaseException]:
        await on_redis.open()
        found: list[bool | BaseException] = []
        for _ in range(60):
            tasks = [asyncio.create_task(one(random.sample(ids, random.randint(1, 9)))) for _ in range(20)]
            await asyncio.sleep(0)
            for task in random.sample(tasks, 10):
                task.cancel()
            found += await asyncio.gather(*tasks, return_exceptions=True)
        on_redis.close()
        return found

    found = runner.run(many())
    assert found.count(True) == 600
    assert sum(isinstance(each, asyncio.CancelledError) for each in found) == 600


def test_redis_that_is_gone_or_late_is_told(
    redis_server: RedisServer, on_redis: OnlineStore, runner: asyncio.Runner
) -> None:
    """As the other network stores: ConnectionError, TimeoutError, and StoreError for a key that is not Feast's."""
    codec = codec_of(on_redis, CustomerStats.spec)

    async def ask() -> None:
        await on_redis.open()
        with pytest.raises(StoreError, match="no such key"):
            await on_redis.fetch([b"tailrace:catalogue"], later_ns())
        redis_server.pause()
        with pytest.raises(TimeoutError):
            await on_redis.fetch(codec.keys([1]), time.monotonic_ns() + NS_PER_S // 20)
        redis_server.resume()
        redis_server.kill()
        with pytest.raises(ConnectionError):
            await ask_until_it_fails(codec.keys([1]))
        on_redis.close()

    async def ask_until_it_fails(keys: list[bytes]) -> None:
        while True:
            await on_redis.fetch(keys, later_ns())

    runner.run(ask())


# -- SQLite -----------------------------------------------------------------------------------------------------------


def test_sqlite_that_is_not_there_is_told_before_traffic(
    feast_on_sqlite: FeastRepository, runner: asyncio.Runner, tmp_path: Path
) -> None:
    """No file, a file of another kind, a view of another project: each with what to do."""
    absent = open_store(f"feast+sqlite:{tmp_path}/absent.db?project=shop", MonotonicClock())
    with pytest.raises(NoStoreError, match="feast apply"):
        runner.run(absent.open())
    (tmp_path / "text.db").write_text("no database, but long enough to be read as the head of one " * 20)
    wrong = open_store(f"feast+sqlite:{tmp_path}/text.db?project=shop", MonotonicClock())
    with pytest.raises(StoreError, match="not a database"):
        runner.run(read(wrong, CustomerStats.spec, [1]))
    other = open_store(f"feast+sqlite:{feast_on_sqlite.folder}/data/online.db?project=other", MonotonicClock())
    with pytest.raises(StoreError, match="no table 'other_customer_stats'"):
        runner.run(read(other, CustomerStats.spec, [1]))


def test_sqlite_of_many_entities_is_read_in_parts(
    feast_on_sqlite: FeastRepository, runner: asyncio.Runner
) -> None:  # fmt: skip
    """More keys than one statement takes, each found, and twice where it is asked for twice."""
    store = open_store(feast_on_sqlite.imported.STORE, MonotonicClock())
    ids: list[EntityId] = [*range(100, 1_600), 1, 2, 1]
    rows = runner.run(read(store, CustomerStats.spec, ids))
    assert rows.column("payments").tolist()[-4:] == [-1, 8, 0, 8]


def test_sqlite_that_feast_holds_fails_at_once(
    runner: asyncio.Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock is never waited for on the loop."""
    path = tmp_path / "online.db"
    connect, opened = sqlite3.connect, []

    def noting(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*arguments, **options))
        return opened[-1]  # type: ignore[no-any-return]

    monkeypatch.setattr(sqlite3, "connect", noting)
    with sqlite3.connect(path, isolation_level=None) as writer:
        writer.execute("CREATE TABLE shop_customer_stats (entity_key, feature_name, value, event_ts)")
        store = open_store(f"feast+sqlite:{path}?project=shop", MonotonicClock())
        codec = codec_of(store, CustomerStats.spec)
        runner.run(store.open())
        assert opened[-1].execute("PRAGMA busy_timeout").fetchone() == (0,)
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="locked"):
            runner.run(store.fetch(codec.keys([1]), later_ns()))  # type: ignore[arg-type]
        writer.execute("ROLLBACK")
        assert runner.run(store.fetch(codec.keys([1]), later_ns())) == [None]  # type: ignore[arg-type]
        store.close()
    writer.close()


# -- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["feast+redis://u:secret@host:1/0", "feast+sqlite:online.db", "feast+redis://:secret@h/0?project=x&key_version=1",
     "feast+redis://:secret@h:port/0?project=x", "tier:redis://h:1|feast+redis://:secret@h:1/0?project=x"],
)  # fmt: skip
def test_wrong_url_is_told_without_its_password(url: str) -> None:
    """What is wrong, what next, and no password."""
    with pytest.raises(StoreError) as caught:
        open_store(url, MonotonicClock())
    assert caught.value.next
    assert "secret" not in str(caught.value)


def test_store_of_feast_is_never_written() -> None:
    """Feast fills it: a materialisation into it is refused."""
    with pytest.raises(StoreError, match="filled elsewhere"):
        open_writer("feast+redis://host:1/0?project=x")


def test_relative_path_is_one_of_the_pipelines_folder(tmp_path: Path) -> None:
    """As for LMDB."""
    assert resolve_url("feast+sqlite:data/o.db?project=x", tmp_path) == f"feast+sqlite:{tmp_path}/data/o.db?project=x"
