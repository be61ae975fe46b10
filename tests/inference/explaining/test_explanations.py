"""Explanations: they add up to the score, come in the answer when asked for, and are left out, and said to be, else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from onnx import helper

import tailrace as tr
from pipelines.model_graphs import FLOAT, save
from tailrace.batch import Batch, Call, Transport
from tailrace.compile.checking import check_pipeline
from tailrace.deadline import MonotonicClock
from tailrace.engine import Engine
from tailrace.errors import CompileError, ModelPackageError
from tailrace.inference.explaining.explainer import load_explainer
from tailrace.inference.explaining.step import ENSEMBLE, FALLBACK, NO_TIME, ExplainedModel, ExplainingStep
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import CATBOOST_FILE, EXPLAIN_LIGHTGBM
from tailrace.loop_load import LoopLoad
from tailrace.release.package import package
from tailrace.testing import ManualClock, TestClient

FEATURES = ("amount", "age", "hour")


class Payment(tr.Request):
    amount: float
    age: float
    hour: float
    explain: int = 0
    customer_id: int = 0


class Decision(tr.Response):
    score: float
    explanation: dict[str, float] | None
    unexplained: str


class ManyItems(tr.Request):
    amount: float
    age: float
    item_ids: list[int]


class FewItems(tr.Response):
    item_ids: list[int]
    explanation: list[dict[str, float] | None]


class Item(tr.BatchFeatureView):
    entity = tr.Entity("item", key="item_ids")
    source = tr.Parquet("items.parquet")
    hour: float = 0.0


@tr.on_demand
def hour(item: Item) -> np.ndarray:
    """Return the feature as the model calls it."""
    return item.hour


def rows_of(seed: int = 0) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """Return features, an outcome, and the table of them."""
    x = np.random.default_rng(seed).normal(size=(400, 3)).astype(np.float32)
    y = (x[:, 0] + 0.5 * x[:, 1] * x[:, 2] > 0).astype(int)
    return x, y, pa.table(dict(zip(FEATURES, x.T, strict=True)))


def lightgbm_model(rounds: int = 10) -> Any:
    """Return a classifier, and what gives its raw scores."""
    lightgbm = pytest.importorskip("lightgbm")
    x, y, _ = rows_of()
    data = lightgbm.Dataset(x, y, feature_name=list(FEATURES))
    booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_leaves": 7}, data, rounds)
    return booster, lambda rows: booster.predict(rows, raw_score=True)


def lightgbm_classes() -> Any:
    """Return a classifier of three classes."""
    lightgbm = pytest.importorskip("lightgbm")
    x, y, _ = rows_of()
    data = lightgbm.Dataset(x, y + (x[:, 2] > 1), feature_name=list(FEATURES))
    booster = lightgbm.train({"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_leaves": 5}, data, 5)
    return booster, lambda rows: booster.predict(rows, raw_score=True)


def xgboost_model() -> Any:
    """Return a classifier."""
    xgboost = pytest.importorskip("xgboost")
    x, y, _ = rows_of()
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1},
                            xgboost.DMatrix(x, y, feature_names=list(FEATURES)), 10)  # fmt: skip
    return booster, lambda rows: booster.predict(xgboost.DMatrix(rows, feature_names=list(FEATURES)),
                                                 output_margin=True)  # fmt: skip


def catboost_model() -> Any:
    """Return a classifier."""
    catboost = pytest.importorskip("catboost")
    pandas = pytest.importorskip("pandas")
    x, y, _ = rows_of()
    model = catboost.CatBoostClassifier(iterations=10, depth=3, verbose=0, allow_writing_files=False, thread_count=1)
    model.fit(pandas.DataFrame(x, columns=FEATURES), y)
    return model, lambda rows: model.predict(rows, prediction_type="RawFormulaVal")


def catboost_poisson() -> Any:
    """Return a model whose score is an exponential."""
    catboost = pytest.importorskip("catboost")
    pandas = pytest.importorskip("pandas")
    x, y, _ = rows_of()
    model = catboost.CatBoostRegressor(loss_function="Poisson", iterations=10, depth=3, verbose=0,
                                       allow_writing_files=False, thread_count=1)  # fmt: skip
    model.fit(pandas.DataFrame(x, columns=FEATURES), y)
    return model, lambda rows: model.predict(rows, prediction_type="RawFormulaVal")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a LightGBM model that can be explained, and one that cannot."""
    folder = tmp_path_factory.mktemp("explained")
    booster, _ = lightgbm_model()
    _, _, table = rows_of()
    package(booster, table, name="fraud", out=folder / "fraud", explain=True)
    package(booster, table, name="plain", out=folder / "plain")
    return folder


@pytest.fixture
def pipeline(folder: Path) -> tr.Pipeline:
    """Return a pipeline whose callers ask for explanations."""
    return tr.Pipeline(
        name="fraud", request=Payment, response=Decision, features=[Payment.amount, Payment.age, Payment.hour],
        model=tr.Model("fraud", path=folder / "fraud"), budget=tr.Budget("400ms", inference="200ms"),
        explain=Payment.explain,
    )  # fmt: skip


def request(explain: int = 0, **more: Any) -> dict[str, Any]:
    """Return a request."""
    return {"amount": 1.5, "age": -0.5, "hour": 0.25, "explain": explain, **more}


@pytest.mark.parametrize("make", [lightgbm_model, lightgbm_classes, xgboost_model, catboost_model, catboost_poisson])
def test_contributions_add_up_to_the_raw_score(make: Callable[[], Any], tmp_path: Path) -> None:
    """What the features add, and the base, are what the library says before its link, a class each."""
    model, raw = make()
    x, _, table = rows_of()
    package(model, table, name="m", out=tmp_path / "m", explain=True)
    loaded = load_model(tmp_path / "m")
    trees = load_explainer(loaded, tmp_path / "m")
    assert not isinstance(trees, str)
    spec = loaded.signature.inputs[0]
    found = trees.contributions({spec.name: x[:50].astype(spec.dtype)})
    assert found.shape[-1] == len(FEATURES) + 1
    np.testing.assert_allclose(found.sum(axis=-1), raw(x[:50]), atol=1e-5)


@pytest.mark.parametrize("flag", [True, False])
def test_catboost_on_categories_is_explained_by_the_file_that_serves(flag: bool, tmp_path: Path) -> None:
    """With the flag and without it: each column is an input of its own, and there are no trees but these."""
    catboost = pytest.importorskip("catboost")
    pandas = pytest.importorskip("pandas")
    x, y, _ = rows_of()
    frame = pandas.DataFrame({"amount": x[:, 0], "shop": np.where(x[:, 1] > 0, "corner", "mall")})
    model = catboost.CatBoostClassifier(iterations=10, depth=3, verbose=0, allow_writing_files=False, thread_count=1)
    model.fit(frame, y, cat_features=["shop"])
    package(model, frame, name="m", out=tmp_path / "m", explain=flag)
    loaded = load_model(tmp_path / "m")
    assert set(loaded.manifest.files) == {CATBOOST_FILE}
    trees = load_explainer(loaded, tmp_path / "m")
    assert not isinstance(trees, str)
    feeds = {
        "amount": frame[["amount"]].to_numpy(loaded.signature.inputs[0].numpy_dtype),
        "shop": frame[["shop"]].to_numpy(object),
    }
    raw = model.predict(frame, prediction_type="RawFormulaVal")
    np.testing.assert_allclose(trees.contributions(feeds).sum(axis=-1), raw, atol=1e-5)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibrated_model_is_explained(method: str, tmp_path: Path) -> None:
    """By what its trees sum up to: that is before any calibration."""
    model, raw = lightgbm_model()
    x, y, table = rows_of()
    table = table.append_column("fraud", pa.array(y))
    package(model, table, name="m", out=tmp_path / "m", target="fraud", calibrate=method, explain=True)
    loaded = load_model(tmp_path / "m")
    trees = load_explainer(loaded, tmp_path / "m")
    assert not isinstance(trees, str)
    spec = loaded.signature.inputs[0]
    np.testing.assert_allclose(
        trees.contributions({spec.name: x[:9].astype(spec.dtype)}).sum(-1), raw(x[:9]), atol=1e-5
    )


def test_model_that_its_library_does_not_explain_is_refused_when_packaged(tmp_path: Path) -> None:
    """With the reason, and without a directory: a pipeline would be refused else, or its answers be wrong."""
    lightgbm = pytest.importorskip("lightgbm")
    x, y, table = rows_of()
    data = lightgbm.Dataset(x, y, feature_name=list(FEATURES))
    options = {"objective": "regression", "verbosity": -1, "num_leaves": 7, "linear_tree": True}
    model = lightgbm.train(options, data, 5)
    with pytest.raises(ModelPackageError, match="its scores cannot be explained") as raised:
        package(model, table, name="m", out=tmp_path / "m", explain=True)
    assert "without --explain" in raised.value.next
    assert not any(tmp_path.iterdir())


def test_caller_gets_as_many_contributions_as_it_asks_for(pipeline: tr.Pipeline, folder: Path) -> None:
    """The largest first, by the features' names, each row for itself; who does not ask gets none."""
    loaded = load_model(folder / "fraud")
    trees = load_explainer(loaded, folder / "fraud")
    assert not isinstance(trees, str)
    feeds = {loaded.signature.inputs[0].name: np.array([[1.5, -0.5, 0.25]], np.float32)}
    whole = dict(zip(FEATURES, trees.contributions(feeds)[0].tolist(), strict=False))
    order = sorted(whole, key=lambda name: -abs(whole[name]))
    with TestClient(pipeline) as client:
        assert client.predict(request()) == client.predict(request()) | {"explanation": None, "unexplained": ""}
        answers = client.predict([request(2), request(0), request(9), request(-1)])
    assert list(answers[0]["explanation"]) == order[:2]
    assert answers[0]["explanation"] == pytest.approx({name: whole[name] for name in order[:2]})
    assert answers[1]["explanation"] is None
    assert answers[2]["explanation"] == pytest.approx({name: value for name, value in whole.items() if value})
    assert {answer["unexplained"] for answer in answers} == {""}


def test_only_rows_that_are_answered_with_are_explained(pipeline: tr.Pipeline) -> None:
    """Of a list that is cut to its best: the others would take their time."""
    features = [ManyItems.amount, ManyItems.age, hour]
    cut = replace(pipeline, request=ManyItems, response=FewItems, features=features, explain=1, top=2)
    with TestClient(cut) as client:
        for item in range(6):
            client.put(Item, item, hour=float(item))
        batch = client.run([json.dumps({"amount": 1.5, "age": 2.0, "item_ids": list(range(6))}).encode()])
    answer = json.loads(batch.bodies[0])
    assert [len(each) for each in answer["explanation"]] == [1, 1]
    assert batch.explanations is not None
    told = {row for row, each in enumerate(batch.explanations) if each is not None}
    assert told == set(answer["item_ids"])


def test_every_answer_is_explained_where_the_pipeline_says_so(pipeline: tr.Pipeline) -> None:
    """By a number in place of a field."""
    with TestClient(replace(pipeline, explain=1)) as client:
        assert len(client.predict(request())["explanation"]) == 1


def test_what_cannot_be_explained_is_said(pipeline: tr.Pipeline, folder: Path) -> None:
    """A model without its library's trees, and the mean of an ensemble; the score is there all the same."""
    plain, fraud = tr.Model("plain", path=folder / "plain"), tr.Model("fraud", path=folder / "fraud")
    cases = [(plain, "packaged without --explain"), (tr.Ensemble("both", [plain, fraud]), ENSEMBLE)]
    for model, why in cases:
        with TestClient(replace(pipeline, model=model)) as client:
            answer = client.predict(request(3))
        assert answer["explanation"] is None
        assert why in answer["unexplained"]
        assert 0 < answer["score"] < 1


def test_check_warns_of_a_model_that_cannot_be_explained(pipeline: tr.Pipeline, folder: Path) -> None:
    """Whoever forgot --explain reads it before the first caller asks."""
    stages = {"a": tr.Model("fraud", path=folder / "fraud"), "b": tr.Model("plain", path=folder / "plain")}
    split = tr.Split("test", stages, by=Payment.customer_id, shares={"a": 0.5, "b": 0.5})
    checked = asyncio.run(check_pipeline(replace(pipeline, model=split), None, MonotonicClock()))
    checked.plan.close()
    told = [warning for warning in checked.warnings if warning.startswith("explain")]
    assert len(told) == 1
    assert "'plain' cannot be explained: it was packaged without --explain" in told[0]


def test_row_is_explained_by_the_model_whose_score_stands(pipeline: tr.Pipeline, folder: Path) -> None:
    """Of a split each row by its variant's."""
    stages = {"a": tr.Model("fraud", path=folder / "fraud"), "b": tr.Model("plain", path=folder / "plain")}
    split = tr.Split("test", stages, by=Payment.customer_id, shares={"a": 0.5, "b": 0.5})
    with TestClient(replace(pipeline, model=split)) as client:
        answers = client.predict([request(1, customer_id=each) for each in range(20)])
        batch = client.run([msgspec.json.encode(request(1, customer_id=each)) for each in range(20)])
    assert batch.branches is not None
    assert [answer["explanation"] is None for answer in answers] == batch.branches["test"].astype(bool).tolist()
    assert {answer["unexplained"] for answer in answers if answer["explanation"] is None} == {
        "this model cannot be explained: it was packaged without --explain"
    }


class Slow:
    """Trees that take their time."""

    def __init__(self, trees: Any, seconds: float) -> None:
        self._trees, self._seconds = trees, seconds

    def contributions(self, feeds: Any) -> Any:
        """Explain, later."""
        time.sleep(self._seconds)
        return self._trees.contributions(feeds)


def slowed(client: TestClient, folder: Path, seconds: float, row_ns: int) -> ExplainingStep:
    """Put trees that are slow in a client's place of the quick ones; they are said to take `row_ns` a row."""
    step: Any = client.plan.inference
    trees = load_explainer(load_model(folder / "fraud"), folder / "fraud")
    quick: Any = step._models["fraud"]
    slow: Any = ExplainedModel([], Slow(trees, seconds), FEATURES, row_ns)
    slow._fills = quick._fills
    step._models, step._explained = {"fraud": slow}, [slow]
    assert isinstance(step, ExplainingStep)
    return step


def explained(client: TestClient, count: int) -> list[dict[str, Any]]:
    """Ask for explanations of so many rows, in one call."""
    call = client.submit([request(1) for _ in range(count)])
    while not client.turns.is_idle:
        client.turn()
    assert isinstance(call.batch, Batch)
    assert call.answer is not None
    found: list[dict[str, Any]] = json.loads(call.answer)
    return found


def test_explanation_that_is_late_is_left_out(pipeline: tr.Pipeline, folder: Path) -> None:
    """The answer comes in time, with its score, and says so."""
    with TestClient(replace(pipeline, budget=tr.Budget("120ms", inference="60ms"))) as client:
        assert slowed(client, folder, 0.25, 2_000_000).suspends(1)
        began = time.monotonic()
        (answer,) = explained(client, 1)
        assert time.monotonic() - began < 0.15
    assert (answer["explanation"], answer["unexplained"]) == (None, NO_TIME)
    assert 0 < answer["score"] < 1


def test_call_that_asks_nothing_does_not_wait_for_explanations(pipeline: tr.Pipeline, folder: Path) -> None:
    """While one call's explanation is computed the next is answered."""
    order: list[int] = []

    class Answers:
        def deliver(self, batch: Batch, places: Any) -> None:
            order.extend(batch.calls[place].requests.customer_id for place in places)

    async def main(client: TestClient) -> None:
        slowed(client, folder, 0.1, 20_000_000)
        loop, transport = asyncio.get_running_loop(), cast(Transport, Answers())
        engine = Engine(client.plan, LoopLoad(loop), [], MonotonicClock())
        for number, explain in ((1, 1), (2, 0)):
            made = msgspec.convert(request(explain, customer_id=number), Payment)
            now_ns = time.monotonic_ns()
            engine.submit(Call(transport, None, made, now_ns, now_ns + 300_000_000, 1))
            await asyncio.sleep(0.02)
        while engine.calls_waiting:
            await asyncio.sleep(0.01)

    with TestClient(pipeline) as client:
        asyncio.run(main(client))
    assert order == [2, 1]


def test_rows_that_there_is_no_time_for_are_left_out(pipeline: tr.Pipeline, folder: Path) -> None:
    """By what explaining is known to take; the first of a call are explained."""
    with TestClient(pipeline) as client:
        slowed(client, folder, 0.0, 60_000_000)
        answers = explained(client, 8)
    told = [answer["explanation"] is not None for answer in answers]
    assert 1 <= sum(told) <= 3
    assert told == sorted(told, reverse=True)
    assert answers[-1]["unexplained"] == NO_TIME


def test_what_a_row_takes_is_learned_from_rows_that_are_explained() -> None:
    """Measured beside busy neighbours it was ten times as much; samples before traffic teach nothing."""
    clock = ManualClock()

    class Quick:
        def predict(self, feeds: Any) -> Any:
            """Score nothing."""

        def contributions(self, feeds: Any) -> Any:
            """Explain two rows, in a millisecond each."""
            clock.advance(2)
            return np.ones((2, 4))

    model = ExplainedModel([], Quick(), FEATURES, 10_000_000, clock)
    model.explain({}, [1, 1])
    assert model.row_ns == 10_000_000
    model.learns = True
    for _ in range(200):
        model.explain({}, [1, 1])
    assert model.row_ns == pytest.approx(1_000_000, rel=0.1)


def test_model_that_was_thought_too_dear_is_explained_again(
    pipeline: tr.Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now and then a row is tried for which there seems to be no time: else nothing would ever be learned."""
    monkeypatch.setattr("tailrace.inference.explaining.step.TRIED_EVERY", 2)
    with TestClient(pipeline) as client:
        step = slowed(client, folder, 0.0, 2_000_000_000)
        assert [explained(client, 1)[0]["unexplained"] for _ in range(4)] == [NO_TIME] * 4
        step.begin_learning()
        told = [explained(client, 1)[0]["unexplained"] for _ in range(400)]
    assert told[:4] == [NO_TIME, "", NO_TIME, ""]
    assert told[-20:] == [""] * 20


def test_row_with_a_fallback_is_not_explained(pipeline: tr.Pipeline) -> None:
    """What the model would have said is not why the answer is what it is."""
    with TestClient(replace(pipeline, model=replace(pipeline.model, fallback=tr.Constant(0.5)))) as client:
        stage: Any = client.plan.inference.stage
        stage._scorer._predict = lambda feeds: np.full(1, np.nan, np.float32)
        answer = client.predict(request(2))
    assert (answer["score"], answer["explanation"], answer["unexplained"]) == (0.5, None, FALLBACK)


def test_trees_of_another_model_are_refused(pipeline: tr.Pipeline, folder: Path, tmp_path: Path) -> None:
    """They would explain a score that nobody gave."""
    copy = tmp_path / "fraud"
    shutil.copytree(folder / "fraud", copy)
    other, _ = lightgbm_model(rounds=3)
    (copy / EXPLAIN_LIGHTGBM).write_text(other.model_to_string())
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][EXPLAIN_LIGHTGBM] = hashlib.sha256((copy / EXPLAIN_LIGHTGBM).read_bytes()).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CompileError, match="explains another model"):
        TestClient(replace(pipeline, model=tr.Model("fraud", path=copy)))


def test_model_that_is_no_trees_keeps_nothing_to_be_explained_by(tmp_path: Path) -> None:
    """Packaging says so, and writes nothing."""
    path = save(tmp_path / "log.onnx", [helper.make_node("Log", ["x"], ["score"])], {"x": FLOAT}, 1)
    with pytest.raises(ModelPackageError, match="can be explained"):
        package(path, pa.table({"amount": np.linspace(0.5, 2, 50)}), name="log", out=tmp_path / "log", explain=True)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"explain": 0}, "0 contributions explain nothing"),
        ({"explain": Payment.amount}, "no field of this request that holds a whole number"),
        ({"explain": "5"}, "explain=5, or explain=Payment.explain"),
        ({"explain": None}, "nothing gives this field a value"),
    ],
)
def test_explanations_that_cannot_be_given_are_told(pipeline: tr.Pipeline, more: dict[str, Any], said: str) -> None:
    """When the pipeline is compiled."""
    with pytest.raises(CompileError, match=said):
        TestClient(replace(pipeline, **more))
