"""`tailrace import-feast`: the views of a Feast repository as declarations."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner, Result

import tailrace as tr
from feast_repository import FeastRepository
from features.redis_server import RedisServer
from tailrace.cli.import_feast import import_feast
from tailrace.errors import SetupError
from tailrace.offline.feast_file import write_feast_file
from tailrace.offline.feast_registry import (
    FeastField,
    FeastOnlineStore,
    FeastProject,
    FeastRegistryView,
    FeastSource,
    read_registry,
)

KEY = FeastField("customer_id", "INT64")
FILE = FeastSource("FileSource", "/data/customers.parquet", "at", {})
SQLITE = FeastOnlineStore("sqlite", "/data/online.db", ())
VIEW = FeastRegistryView(
    name="customer_stats", ttl_s=5_400.0, online=True, entities=("customer",), join_keys=(KEY,),
    features=(FeastField("mean", "DOUBLE"),), source=FILE,
)  # fmt: skip
PROJECT = FeastProject("shop", 3, SQLITE, (VIEW,))


def call(*arguments: str) -> Result:
    """Call the command as a shell would."""
    app = typer.Typer()
    app.command()(import_feast)
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def loaded(text: str) -> dict[str, object]:
    """Return what a file declares; the annotations of its classes are looked up in its own names."""
    found: dict[str, object] = {"__name__": "imported"}
    module = type(sys)("imported")
    vars(module).update(found)
    sys.modules["imported"] = module
    try:
        exec(compile(text, "features.py", "exec"), vars(module))
    finally:
        del sys.modules["imported"]
    return vars(module)


def test_error_of_feast_tells_no_password(tmp_path: Path) -> None:
    """Feast quotes its configuration, logins and passwords among it; all else of its error is told."""
    (tmp_path / "feature_store.yaml").touch()
    python = tmp_path / "python"
    quoted = [
        "ValidationError: cannot connect to postgresql://feast:p@ss/w0rd@db.internal:5432/feast, it is down",
        "input_value={'type': 'redis', 'connection_string': 'redis:6379,password=s3cret, and more'}",
        "{'user': 'feast', 'PASSWORD': 'hush hush', 'private_key_passwd': 'quiet'}",
        "aws_secret: mum",
        "the last line " + "x" * 3_000,
    ]
    script = "\n".join(["#!/bin/sh", "cat >&2 <<'END'", *quoted, "END", "exit 1"])
    for shown in (script, script.replace("x" * 3_000, "")):
        python.write_text(shown)
        python.chmod(0o700)
        with pytest.raises(SetupError) as refused:
            read_registry(tmp_path, str(python))
        for secret in ("p@ss", "w0rd", "s3cret", "and more", "hush", "quiet", "mum"):
            assert secret not in str(refused.value)
    assert "cannot connect to postgresql://…@db.internal:5432/feast, it is down" in refused.value.what
    assert "'connection_string': 'redis:6379,password…" in refused.value.what
    assert refused.value.what.endswith("the last line")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_command_prints_the_views_and_says_what_is_left_out(feast_on_sqlite: FeastRepository) -> None:
    """A list is said on stderr and in the file, and the exit code; the rest is printed."""
    told = call(str(feast_on_sqlite.folder), "--python", str(feast_on_sqlite.python.path))
    assert told.exit_code == 1
    assert "left out: customer_lists.scores" in told.stderr
    assert "# Left out: customer_lists.scores" in told.stdout
    names = loaded(told.stdout)
    stats = names["CustomerStats"]
    assert isinstance(stats, type)
    assert issubclass(stats, tr.BatchFeatureView)
    assert stats.spec.max_staleness_ns == 7 * 86_400 * 10**9
    assert Path(stats.spec.source.path).is_file()
    assert names["STORE"] == f"feast+sqlite:{feast_on_sqlite.folder}/data/online.db?project=shop&key_version=2"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_source_of_an_imported_view_is_where_feast_reads_it(
    feast_on_redis: tuple[FeastRepository, RedisServer],
) -> None:
    """Renamed columns, time and key are those of the file."""
    repository, server = feast_on_redis
    assert f"feast+{server.url}?project=shop" == repository.imported.STORE
    spec = repository.imported.ShopStats.spec
    assert (spec.source.time, spec.source.key) == ("at", "shop_id")
    assert spec.source.column("sales") == "raw_sales"
    assert spec.feast.feature("feature_class") == "class"


def test_names_that_python_cannot_have_are_changed() -> None:
    """Views, entities and features may have any name in Feast; each is still found under it."""
    features = [FeastField(name, "INT64") for name in ("source", "_x", "a-b", "a_b", "7", "class", "x")]
    views = [
        msgspec.structs.replace(VIEW, name=name, entities=(entity,), features=tuple(features))
        for name, entity in (("1-view", "class"), ("view", "a b"), ("tr", "tr"), ("Customer", "Customer"))
    ]
    names = loaded(write_feast_file(msgspec.structs.replace(PROJECT, views=tuple(views))).text)
    specs = [found.spec for found in names.values() if isinstance(found, type)]
    assert [spec.feast.name for spec in specs if spec.feast] == ["1-view", "view", "tr", "Customer"]
    for spec in specs:
        assert not spec.problems
        assert spec.feast
        assert sorted(map(spec.feast.feature, (column.name for column in spec.columns))) == sorted(
            f.name for f in features
        )


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"join_keys": (KEY, FeastField("b", "BYTES"))}, "BYTES"), ({"join_keys": ()}, "no entity"),
     ({"join_keys": (FeastField("__dummy_id", "STRING"),)}, "no entity"), ({"online": False}, "not serve it online"),
     ({"join_keys": (FeastField("id", "UUID"),)}, "UUID"), ({"features": (FeastField("a", "BYTES"),)}, "no feature")],
)  # fmt: skip
def test_project_without_a_view_that_can_be_declared_is_an_error(change: dict[str, object], reason: str) -> None:
    """No empty file is told as success."""
    view = msgspec.structs.replace(VIEW, **change)
    with pytest.raises(SetupError, match=reason):
        write_feast_file(msgspec.structs.replace(PROJECT, views=(view,)))


@pytest.mark.parametrize(
    ("store", "version", "url", "reason"),
    [(SQLITE, 2, "feast+sqlite:/data/online.db?project=shop&key_version=2", ""),
     (FeastOnlineStore("redis", "h:6379", ("db=2", "ssl=true")), 3, "feast+rediss://h:6379/2?project=shop", ""),
     (FeastOnlineStore("redis", "h:6379", (), has_login=True), 3, "feast+redis://h:6379/0?project=shop", "login"),
     (FeastOnlineStore("redis_cluster", "h:6379", ()), 3, None, "redis_cluster"),
     (FeastOnlineStore("dynamodb", "", ()), 3, None, "dynamodb")],
)  # fmt: skip
def test_online_store_becomes_a_url(store: FeastOnlineStore, version: int, url: str | None, reason: str) -> None:
    """Or the file says why there is none; a password is never copied."""
    found = write_feast_file(msgspec.structs.replace(PROJECT, online_store=store, key_version=version))
    assert loaded(found.text).get("STORE") == url
    assert bool(found.left_out) == bool(reason)
    assert reason in "".join(found.left_out)


def test_source_that_is_no_file_is_said_in_the_file() -> None:
    """A warehouse's table is to be exported first; the view is declared all the same, with its ttl."""
    source = FeastSource("BigQuerySource", "project.table", "at", {"a": "mean"})
    text = write_feast_file(
        msgspec.structs.replace(PROJECT, views=(msgspec.structs.replace(VIEW, source=source),))
    ).text
    assert "BigQuerySource 'project.table'" in text
    assert 'max_staleness = "90m"' in text
    assert 'columns={"mean": "a"}' in text


def test_repository_or_python_that_is_not_there_is_told(tmp_path: Path) -> None:
    """What, where, and what next."""
    with pytest.raises(SetupError, match=r"no feature_store\.yaml"):
        call(str(tmp_path), "--python", sys.executable)
    (tmp_path / "feature_store.yaml").write_text("project: shop\n")
    with pytest.raises(SetupError, match="cannot ask Feast"):
        call(str(tmp_path), "--python", str(tmp_path / "absent"))
    with pytest.raises(SetupError, match="No module named 'feast'"):
        call(str(tmp_path), "--python", sys.executable)
