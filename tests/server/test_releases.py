"""A server serves what it was started with: whatever is done to its files, and whichever of its workers is replaced."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import Answer, Server, fetch, load, serving, wait_for

from pipelines.model_graphs import linear
from tailrace.release.pin import pin, pin_again
from tailrace.release.pinned import Pin
from tailrace.server.child import Child
from tailrace.server.options import ServeOptions
from tailrace.server.slots import Slot, open_slots, url_of
from tailrace.server.workers import open_workers, worker_role

PIPELINE = """
from typing import Literal
from beside import LIMIT
import tailrace as tr

class Payment(tr.Request):
    amount: float

class Decision(tr.Response):
    decision: Literal["allow", "block"]
    score: float

pay = tr.Pipeline(name="pay", request=Payment, response=Decision, features=[Payment.amount], model=tr.Model("pay"),
                  decision=tr.bands("score", allow=0.0, block=LIMIT), budget=tr.Budget("500ms"))
"""
RULES = """
class Rules:
    def predict(self, feeds):
        return feeds["features"][:, 0]

rules = tr.Pipeline(name="rules", request=Payment, response=Decision, features=[Payment.amount], model=tr.PythonModel(
                    "own", Rules), decision=tr.bands("score", allow=0.0, block=LIMIT), budget=tr.Budget("500ms"))
"""
TRACED = {"X-Trace": "1"}


def write_model(folder: Path, weight: float) -> None:
    """Package a model whose score is the amount by a weight, in the place of the one that is there."""
    draft = folder / f"draft-{weight}"
    draft.mkdir()
    linear(draft, "pay", {"amount": weight})
    place = folder / "models" / "pay"
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    (draft / "pay").rename(place)
    shutil.rmtree(draft)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a pipeline's file, with a module and a model beside it."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "pipeline.py").write_text(PIPELINE)
    (folder / "beside.py").write_text("LIMIT = 0.5\n")
    write_model(folder, 0.001)
    return folder / "pipeline.py"


def ask(server: Server) -> Answer:
    """Ask for a decision, traced, on a connection of its own."""
    return server.ask("pay", {"amount": 400.0}, TRACED)


def replace_all(server: Server) -> None:
    """Kill every worker, and wait until each has a successor."""
    before = {worker["pid"] for worker in server.workers()}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: all(each["state"] == "ready" and each["pid"] not in before for each in server.workers()), 60)


def test_replaced_worker_serves_the_release(tmp_path: Path, file: Path) -> None:
    """New thresholds, another model, a broken file, none at all: the server goes on as it was until it is restarted."""
    with serving(tmp_path / "log", file, "--workers", "2") as server:
        first = ask(server)
        assert first.body == {"decision": "allow", "score": pytest.approx(0.4)}
        (file.parent / "beside.py").write_text("LIMIT = 0.3\n")
        write_model(file.parent, 0.002)
        replace_all(server)
        file.write_text("nonsense(")
        replace_all(server)
        shutil.rmtree(file.parent / "models")
        (file.parent / "beside.py").unlink()
        replace_all(server)
        for _ in range(20):  # of both workers, with connections of their own
            answer = ask(server)
            assert (answer.body, answer.headers["x-release"]) == (first.body, first.headers["x-release"])
        assert {worker["release"] for worker in server.workers()} == {first.headers["x-release"]}
    file.write_text(PIPELINE)
    (file.parent / "beside.py").write_text("LIMIT = 0.3\n")
    write_model(file.parent, 0.002)
    with serving(tmp_path / "log", file) as server:
        second = ask(server)
        assert second.body == {"decision": "block", "score": pytest.approx(0.8)}
        assert second.headers["x-release"] != first.headers["x-release"]


def test_release_is_told(tmp_path: Path, file: Path) -> None:
    """Its id and models are in /status, the log, an info metric, the requests' counters, and in answers on request."""
    file.write_text(PIPELINE + RULES)
    with serving(tmp_path / "log", file) as server:
        release = ask(server).headers["x-release"]
        assert "x-release" not in server.ask("pay", {"amount": 400.0}).headers
        status = json.loads(fetch(f"{server.admin}/status")[2])
        assert [worker["release"] for worker in status["workers"]] == [release]
        (model,), (own,) = [pipeline["models"] for each in status["releases"] for pipeline in each["pipelines"]]
        assert model["name"] == "pay"
        assert [(each["id"], each["workers"]) for each in status["releases"]] == [(release, [0])]
        assert [event["models"] for event in server.events("worker ready")] == [
            {"pay.pay": model["version"], "rules.own": ""}
        ]
        assert model["backend"]
        assert (own["name"], own["version"], own["backend"]) == ("own", "", "Python")
        assert server.metric("tailrace_release_info", 'pipeline="rules"', 'model="own"', 'backend="Python"') == 1
        assert [event["release"] for event in server.events("worker ready")] == [release]
        labels = [f'release="{release}"', 'pipeline="pay"', 'model="pay"', f'version="{model["version"]}"']
        assert server.metric("tailrace_release_info", *labels) == 1
        assert server.metric("tailrace_requests_total", f'release="{release}"', 'pipeline="pay"', 'code="200"') == 2
        assert not [name for name in server.metrics() if "release=" in name and "_info" not in name
                    and not name.startswith(("tailrace_requests_total", "tailrace_inference_seconds"))]  # fmt: skip


def test_data_beside_the_file_stays_where_it_is(tmp_path: Path, file: Path) -> None:
    """A module finds the files beside it by its `__file__`; only code and models are copied."""
    (file.parent / "limit.txt").write_text("0.3")
    (file.parent / "beside.py").write_text(
        'from pathlib import Path\nLIMIT = float(Path(__file__).with_name("limit.txt").read_text())\n'
    )
    with serving(tmp_path / "log", file) as server:
        assert ask(server).body["decision"] == "block"


def test_folder_that_cannot_be_written_is_served(tmp_path: Path, file: Path) -> None:
    """The release is kept in the temporary directory then, and the log says so."""
    (file.parent / ".tailrace").write_text("")  # a file where the directory would be: root may write anywhere
    with serving(tmp_path / "log", file) as server:
        assert ask(server).status == 200
        (told,) = server.events("releases are kept elsewhere")
        assert str(file.parent) in told["cause"]


def test_file_that_picks_its_model_itself_is_served_as_it_was(tmp_path: Path, file: Path) -> None:
    """A successor of a worker gets the models of the release, though its file names another one by now."""
    pick = 'path=sorted(Path(__file__).parent.glob("models/*"))[-1]'
    file.write_text("from pathlib import Path\n" + PIPELINE.replace('tr.Model("pay")', f'tr.Model("pay", {pick})'))
    with serving(tmp_path / "log", file) as server:
        first = ask(server)
        shutil.copytree(file.parent / "models" / "pay", file.parent / "models" / "pay-v2")
        replace_all(server)
        shutil.rmtree(file.parent / "models")
        (file.parent / "models" / "none").mkdir(parents=True)
        replace_all(server)
        again = ask(server)
        assert (again.body, again.headers["x-release"]) == (first.body, first.headers["x-release"])


def test_modules_from_elsewhere_are_told(tmp_path: Path, file: Path) -> None:
    """What the code finds by a path of its own is not pinned, and the log names it."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "rates.py").write_text("")
    file.write_text(f"import sys\nsys.path.insert(0, {str(tmp_path / 'elsewhere')!r})\nimport rates\n" + PIPELINE)
    with serving(tmp_path / "log", file) as server:
        (told,) = server.events("modules are no part of the release")
    assert told["modules"] == ["rates"]


def test_model_that_is_not_there_is_told_with_the_other_mistakes(tmp_path: Path, file: Path) -> None:
    """All mistakes of a pipeline are reported together, whatever the release is in want of."""
    shutil.rmtree(file.parent / "models")
    file.write_text(PIPELINE.replace('name="pay", request', 'name="p/y", request'))
    missing = pytest.raises(AssertionError, match="there is no such model directory")
    with missing as caught, serving(tmp_path / "log", file):
        pass
    assert "'p/y' cannot stand in a URL" in str(caught.value)


def test_module_that_the_release_has_not_is_an_error(tmp_path: Path, file: Path) -> None:
    """An import whose name nobody can read in the file is not found, and the error says which."""
    (file.parent / "hidden.py").write_text("")
    file.write_text("import importlib\nimportlib.import_module('hid' + 'den')\n" + PIPELINE)
    with pytest.raises(AssertionError, match="No module named 'hidden'"), serving(tmp_path / "log", file):
        pass


class Watcher:
    """Hears of children as the supervisor would."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.failures: list[str] = []

    def on_ready(self, child: Child) -> None:
        """Note it."""
        self.ready.set()

    def on_death(self, child: Child) -> None:
        """Note it."""
        self.failures.append(f"{child.name} died")

    def on_failed_start(self, child: Child, error: str) -> None:
        """Note it."""
        self.failures.append(error)


@asynccontextmanager
async def generation(pinned: Pin, slot: Slot, *, admitted: bool) -> AsyncIterator[tuple[Child, Watcher]]:
    """Keep a real worker of a release in a slot; afterwards it is gone."""
    options = ServeOptions(files=pinned.files)
    (child,) = open_workers(worker_role(options), options, [slot], pinned, admitted=admitted)
    watcher = Watcher()
    keeper = asyncio.create_task(child.keep(watcher))
    try:
        yield child, watcher
    finally:
        child.stop()
        await asyncio.wait_for(keeper, 30)
        child.close()


async def poll(condition: Any) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_two_releases_side_by_side(tmp_path: Path, file: Path) -> None:
    """The second is warm before it gets the socket, then both answer from it, and the first leaves without a loss."""
    url = ""

    async def answers() -> set[tuple[str, float]]:
        found = await asyncio.gather(
            *[
                asyncio.to_thread(fetch, f"{url}/v1/pipelines/pay/predict", b'{"amount": 400.0}', TRACED)
                for _ in range(40)
            ]
        )
        assert {status for status, _, _ in found} == {200}
        return {(headers["X-Release"], round(json.loads(body)["score"], 3)) for _, headers, body in found}

    async def run(slot: Slot, pinned: Pin) -> None:
        async with generation(pinned, slot, admitted=True) as (first, watcher):
            await asyncio.wait_for(watcher.ready.wait(), 30)
            (old,) = await answers()
            write_model(file.parent, 0.002)
            second_pin = pin_again(pinned)
            async with generation(second_pin, slot, admitted=False) as (second, second_watcher):
                await poll(lambda: second.process is not None and second.process.state == "warm")
                assert await answers() == {old}
                assert not second.is_ready
                second.admit()
                await asyncio.wait_for(second_watcher.ready.wait(), 30)
                async with asyncio.timeout(30):
                    while len(both := await answers()) < 2:
                        pass
                assert {score for _, score in both} == {0.4, 0.8}
                with load(f"{url}/v1/pipelines/pay/predict", [b'{"amount": 400.0}'], rate=300, duration_s=2) as report:
                    first.stop()
                    await poll(lambda: first.process is not None and first.process.state == "gone")
                    counted = await asyncio.to_thread(report.result)
                assert counted.ok is not None
                assert counted.ok.count == counted.shots
                assert {score for _, score in await answers()} == {0.8}
                assert not second_watcher.failures
            assert not watcher.failures

    (slot,) = open_slots("127.0.0.1", 0, 1)
    url = url_of(slot.listener.getsockname()[:2])
    with pin([str(file)], str(tmp_path / "kept")) as pinned:
        try:
            asyncio.run(run(slot, pinned))
        finally:
            slot.close()
