"""`tailrace check`, through the command line: what it prints and the code it leaves."""

from __future__ import annotations

import json
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from features.redis_server import RedisServer
from tailrace.cli.main import app
from tailrace.deadline import LAYERS


def run_check(*arguments: str) -> tuple[int, str, str]:
    """Return the exit code and what was printed on both streams."""
    done = CliRunner().invoke(app, ["check", *arguments], env={"COLUMNS": "120"})
    return done.exit_code, done.stdout, done.stderr


def test_check_tells_budget_and_what_fills_each_input(pipelines_dir: Path) -> None:
    """The report has every layer with its budget and a measured p99, the buffer, and each input beside its source."""
    code, out, _ = run_check(str(pipelines_dir / "payment.py"), "--json")
    (report,) = json.loads(out)
    assert (code, report["ok"], report["pipeline"]) == (0, True, "payment")
    assert [layer["layer"] for layer in report["layers"]] == list(LAYERS)
    assert all(layer["p99_ns"] >= layer["p50_ns"] > 0 for layer in report["layers"])
    assert report["buffer_ns"] == report["budget_ns"] - sum(layer["budget_ns"] for layer in report["layers"])
    sources = {each["input"]: each["from"] for each in report["inputs"]}
    assert sources["amount"] == "request field"
    assert sources["CustomerProfile.avg_amount"] == "view, materialised"
    assert sources["amount_ratio"] == "on demand, computed"


def test_check_prints_tables_and_what_computes_the_model(pipelines_dir: Path) -> None:
    """A person sees the same: the budget table with its buffer, the inputs, the backend."""
    code, out, _ = run_check(str(pipelines_dir / "payment.py"))
    assert code == 0
    for text in (*LAYERS, "buffer", "whole", "CustomerProfile.avg_amount", "is computed by"):
        assert text in out


def test_check_tells_every_mistake_at_once(pipelines_dir: Path, tmp_path: Path) -> None:
    """Three mistakes in one file are three problems with what, where and next, and the exit code is 1."""
    text = (pipelines_dir / "payment.py").read_text()
    assert 'key="customer_id"' in text
    (tmp_path / "models").symlink_to(pipelines_dir / "models")
    broken = text.replace('key="customer_id"', 'key="customer"').replace("reasons: list[str]", "reason: list[str]")
    (tmp_path / "broken.py").write_text(broken)
    code, out, _ = run_check(str(tmp_path / "broken.py"), "--json")
    (report,) = json.loads(out)
    assert (code, report["ok"]) == (1, False)
    told = " ".join(problem["where"] for problem in report["problems"])
    assert "features.CustomerProfile" in told
    assert "response Decision.reason" in told
    assert all(problem["what"] and problem["where"] and problem["next"] for problem in report["problems"])
    code, _, err = run_check(str(tmp_path / "broken.py"))
    assert code == 1
    assert f"has {len(report['problems'])} mistakes" in err


@pytest.mark.parametrize(("total", "warned"), [("10ms", True), ("40ms", False)])
def test_check_warns_of_a_buffer_under_a_tenth(pipelines_dir: Path, tmp_path: Path, total: str, warned: bool) -> None:
    """A budget that the layers use up nearly whole is served, with a warning."""
    (tmp_path / "models").symlink_to(pipelines_dir / "models")
    text = (pipelines_dir / "heavy.py").read_text()
    assert 'tr.Budget("400ms", inference="100ms")' in text
    inference = "9.5ms"
    text = text.replace('tr.Budget("400ms", inference="100ms")', f'tr.Budget("{total}", inference="{inference}")')
    (tmp_path / "heavy.py").write_text(text)
    code, out, _ = run_check(str(tmp_path / "heavy.py"))
    assert code == 0
    assert ("the buffer is" in out) is warned


@pytest.fixture
def declared(pipelines_dir: Path, tmp_path: Path) -> Path:
    """Return the file of a pipeline of two views, one of which has its source beside it."""
    (tmp_path / "models").symlink_to(pipelines_dir / "models")
    file = tmp_path / "faulted.py"
    file.write_text(
        (pipelines_dir / "faulted.py").read_text().replace("tr.Parquet", "tr.CSV").replace("parquet", "csv")
    )
    (tmp_path / "customers.csv").write_text("customer_id,spend\n7,1.5\n")
    return file


def warnings_of(file: Path, *options: str) -> list[str]:
    """Return what is warned of in the only pipeline of a file, which is fit to be served but for that."""
    code, out, _ = run_check(str(file), *options, "--json")
    (report,) = json.loads(out)
    assert (code, report["ok"]) == (0, True)
    return report["warnings"]  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_check_warns_of_a_view_that_a_server_would_refuse(declared: Path, tmp_path: Path) -> None:
    """In the declared store and in another; the exit code stays 0, since the file itself is right."""
    other = f"lmdb:{tmp_path / 'other'}"
    for options in ([], ["--store", other]):
        wrote = CliRunner().invoke(app, ["materialize", str(declared), "--view", "CustomerSpend", *options])
        assert wrote.exit_code == 0, wrote.output
        (unknown,) = warnings_of(declared, *options)
        assert "features.ShopRank: has never been materialised" in unknown
    text = declared.read_text().replace("    spend: float = -1.0\n", "    spend: np.float32 = -1.0\n")
    declared.write_text(text.replace("import tailrace as tr\n", "import numpy as np\nimport tailrace as tr\n"))
    for options in ([], ["--store", other]):
        refused, _ = warnings_of(declared, *options)
        assert "features.CustomerSpend: the view as it is declared now has not been materialised" in refused
        assert "tailrace materialize FILE" in refused
    code, out, _ = run_check(str(declared))
    assert code == 0
    assert "warning: features.CustomerSpend: the view as it is declared now" in out


def test_check_needs_no_store(declared: Path, tmp_path: Path) -> None:
    """One that is not there yet is no warning, and is not made."""
    assert warnings_of(declared) == []
    assert warnings_of(declared, "--store", f"lmdb:{tmp_path / 'nowhere'}") == []
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "visits").exists()


def test_check_warns_of_a_store_that_cannot_be_read(declared: Path, tmp_path: Path) -> None:
    """A server would not start on it."""
    (tmp_path / "visits").mkdir()
    (tmp_path / "visits" / "data.mdb").write_bytes(b"no store" * 1_000)
    (warning,) = warnings_of(declared)
    assert "not a store that can be read" in warning


@pytest.mark.parametrize("is_silent", [False, True], ids=["refuses", "is silent"])
def test_check_warns_of_a_store_that_does_not_answer(declared: Path, is_silent: bool) -> None:
    """A pipeline of one hop has no other line that would tell it; the views in the store may be wrong."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if is_silent else 1
        options = ["--store", f"redis://127.0.0.1:{port}/0"]
        (warning,) = warnings_of(declared, *options)
        code, out, _ = run_check(str(declared), *options)
    assert warning.startswith("store: its store failed: ")
    assert "its views were not looked at" in warning
    assert "next: see that it runs and answers" in warning
    assert (code, "warning: store: its store failed: " in out) == (0, True)


def test_check_shows_hops_and_what_they_take_on_the_store(pipelines_dir: Path, redis_server: RedisServer) -> None:
    """What is read together, by which keys, how many, and how long; without a store nothing is measured."""
    file = str(pipelines_dir / "derived.py")
    code, out, _ = run_check(file, "--store", redis_server.url)
    assert code == 0
    for text in ("hop", "Item.category_id", "customer_id, Item.category_id", "1 + 3 a row", "one request on its store"):
        assert text in out
    code, out, _ = run_check(file, "--store", redis_server.url, "--json")
    hops = json.loads(out)[0]["hops"]
    assert [hop["views"] for hop in hops] == [["Item"], ["CustomerCategory", "Category"], ["Department"]]
    assert [hop["keys_a_request"] for hop in hops] == [1, 2, 1]
    assert all(hop["p99_ns"] >= hop["p50_ns"] > 0 for hop in hops)
    assert not [each for each in json.loads(out)[0]["warnings"] if "hops take" in each]
    code, out, _ = run_check(file)
    assert (code, "not measured: its store is not there" in out) == (0, True)


@pytest.mark.parametrize("store", ["redis://127.0.0.1:1/0", "lmdb:{}"], ids=["does not answer", "cannot be read"])
def test_check_tells_why_a_store_that_is_there_was_not_measured(
    pipelines_dir: Path, tmp_path: Path, store: str
) -> None:
    """A store that failed is another thing than one that is not there yet; hops are counted all the same."""
    (tmp_path / "data.mdb").write_bytes(b"no store" * 1_000)
    file, options = str(pipelines_dir / "derived.py"), ["--store", store.format(tmp_path)]
    code, out, _ = run_check(file, *options)
    assert code == 0
    assert "not measured: its store failed: " in " ".join(out.split())
    assert "is not there" not in out
    if store.startswith("redis"):
        code, out, _ = run_check(file, *options, "--json")
        hops = [hop for report in json.loads(out) for hop in report["hops"]]
        assert all((hop["p50_ns"], bool(hop["failure"])) == (None, True) for hop in hops)


def test_check_measures_a_store_that_feast_fills(declared: Path, tmp_path: Path) -> None:
    """Its keys are Feast's: those of a store of Tailrace's own would be none of its."""
    with closing(sqlite3.connect(tmp_path / "online.db")) as online:
        for view in ("spend", "rank"):
            online.execute(f"CREATE TABLE shop_{view} (entity_key BLOB, feature_name TEXT, value BLOB, event_ts TEXT)")
        online.commit()
    text = declared.read_text()
    for view, key in (("spend", "customer_id"), ("rank", "shop_id")):
        entity = next(line for line in text.splitlines() if f'key="{key}"' in line)
        text = text.replace(entity, f'{entity}\n    feast = tr.FeastView("{view}", join_key="{key}")')
    declared.write_text(text)
    code, out, err = run_check(str(declared), "--store", f"feast+sqlite:{tmp_path}/online.db?project=shop", "--json")
    (report,) = json.loads(out)
    (hop,) = report["hops"]
    assert (code, report["warnings"], hop["failure"]) == (0, [], ""), err
    assert hop["p50_ns"] > 0
    with closing(sqlite3.connect(tmp_path / "online.db")) as online:
        online.execute("DROP TABLE shop_rank")
    failed, unfit = warnings_of(declared, "--store", f"feast+sqlite:{tmp_path}/online.db?project=shop")
    assert failed.startswith("store: its store failed: ")
    assert "were not looked at" not in failed
    assert "Feast has no table 'shop_rank'" in unfit


def test_check_warns_of_hops_that_take_longer_than_features_may(
    pipelines_dir: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    """Their round trips add up: what does not fit is answered with defaults, which is said before it is served."""
    (tmp_path / "models").symlink_to(pipelines_dir / "models")
    text = (pipelines_dir / "derived.py").read_text()
    file = tmp_path / "derived.py"
    file.write_text(text.replace('tr.Budget("10s")', 'tr.Budget("50ms", features="0.02ms")'))
    code, out, _ = run_check(str(file), "--store", redis_server.url, "--json")
    found = [each for report in json.loads(out) for each in report["warnings"] if "hops take" in each]
    assert (code, len(found)) == (0, 2)
    assert found[0].startswith("features: 3 hops take ")


def test_check_shows_no_hops_of_a_pipeline_without(pipelines_dir: Path) -> None:
    """One read is the rule, and is not told at length; a program gets it all the same."""
    _, out, _ = run_check(str(pipelines_dir / "payment.py"))
    assert "one hop after the other" not in out
    _, out, _ = run_check(str(pipelines_dir / "payment.py"), "--json")
    (hop,) = json.loads(out)[0]["hops"]
    assert (hop["keys_a_row"], hop["p50_ns"]) == (0, None)
