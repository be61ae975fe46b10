"""Vectors as they are served: in a request, in a view's rows, into a model, and out of one."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from onnx import helper
from pyarrow import parquet
from typer.testing import CliRunner

from pipelines.model_graphs import FLOAT, constant
from tailrace.cli.main import app
from tailrace.errors import CompileError, InvalidRequestError, MalformedBodyError, ModelPackageError
from tailrace.inference.loading import load_model
from tailrace.release.package import package
from tailrace.release.registry.differences import Differences, compare
from tailrace.testing import TestClient

PIPELINES = Path(__file__).parent / "pipelines"
WIDTH = 8
RNG = np.random.default_rng(4)


def save(path: Path, nodes: list[Any], inputs: dict[str, int], width: int, constants: Any = ()) -> Path:
    """Write a graph of float inputs, each of its width, whose output is (rows, width)."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(name, FLOAT, [None, columns]) for name, columns in inputs.items()],
        [helper.make_tensor_value_info("score", FLOAT, [None, width])],
        list(constants),
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return path


def table_of(**columns: Any) -> pa.Table:
    """Return a table; a matrix is a column of vectors."""
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        if values.ndim == 2
        else pa.array(values)
        for name, values in columns.items()
    }
    return pa.table(arrays)


def package_ranking(folder: Path) -> Path:
    """Package (taste + words) · meaning × boost + likeness, each an input of its own name."""
    nodes = [
        helper.make_node("Add", ["UserVector.taste", "words"], ["asked"]),
        helper.make_node("Mul", ["asked", "ItemVector.meaning"], ["products"]),
        helper.make_node("ReduceSum", ["products", "axis"], ["dot"], keepdims=1),
        helper.make_node("Mul", ["dot", "UserVector.boost"], ["boosted"]),
        helper.make_node("Add", ["boosted", "likeness"], ["score"]),
    ]
    inputs = {
        "UserVector.taste": WIDTH,
        "UserVector.boost": 1,
        "ItemVector.meaning": WIDTH,
        "words": WIDTH,
        "likeness": 1,
    }
    graph = save(folder / "vectors.onnx", nodes, inputs, 1, [constant("axis", [1], np.int64)])
    columns = {name: RNG.random((40, width)) if width > 1 else RNG.random(40) for name, width in inputs.items()}
    package(graph, table_of(**columns), name="vectors", out=folder / "models" / "vectors")
    return folder / "models" / "vectors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of both pipelines and their models."""
    folder = tmp_path_factory.mktemp("vectors")
    for name in ("vectors.py", "embedding.py"):
        shutil.copy(PIPELINES / name, folder / name)
    package_ranking(folder)
    weights = [constant("w", RNG.normal(size=(5, 3)))]
    graph = save(folder / "embedding.onnx", [helper.make_node("MatMul", ["x", "w"], ["score"])], {"x": 5}, 3, weights)
    table = table_of(words=RNG.random((40, 4)), weight=RNG.random(40))
    package(graph, table, name="embedding", out=folder / "models" / "embedding", embedding=True)
    return folder


@pytest.fixture
def ranking(folder: Path) -> Iterator[TestClient]:
    """Yield a client of the ranking, with an empty store."""
    with TestClient.of_file(folder / "vectors.py") as client:
        yield client


@pytest.fixture
def embedding(folder: Path) -> Iterator[TestClient]:
    """Yield a client of the embedding."""
    with TestClient.of_file(folder / "embedding.py") as client:
        yield client


def put(client: TestClient, view: str, entity_id: int, **columns: Any) -> None:
    """Write a row of a view."""
    client.put(next(each for each in client.plan.pipeline.views if each.__name__ == view), entity_id, **columns)


def test_items_are_ranked_by_their_vectors(ranking: TestClient) -> None:
    """A user's vector from the store and one of the request meet each item's own; an unknown item's is its default."""
    taste, words = RNG.normal(size=WIDTH), RNG.normal(size=WIDTH)
    items = {item: RNG.normal(size=WIDTH).astype(np.float16) for item in (3, 5, 9)}
    put(ranking, "UserVector", 1, taste=taste.tolist(), boost=2.0)
    for item, meaning in items.items():
        put(ranking, "ItemVector", item, meaning=meaning.tolist(), title=f"item {item}")
    asked = [9, 4, 3, 5]
    answer: Any = ranking.predict({"user_id": 1, "item_ids": asked, "words": words.tolist()})
    found = [items.get(item, np.zeros(WIDTH)).astype(np.float64) for item in asked]
    expected = [float((taste + words) @ each * 2.0 + words @ each) for each in found]
    assert answer["item_ids"] == asked
    np.testing.assert_allclose(answer["score"], expected, rtol=1e-5, atol=1e-5)


def test_null_vector_is_its_default(ranking: TestClient) -> None:
    """A row without its vector keeps what else it holds."""
    put(ranking, "UserVector", 1, boost=3.0)
    put(ranking, "ItemVector", 2, meaning=[1.0] * WIDTH)
    answer: Any = ranking.predict({"user_id": 1, "item_ids": [2], "words": [0.5] * WIDTH})
    np.testing.assert_allclose(answer["score"], [0.5 * WIDTH * 3.0 + 0.5 * WIDTH], rtol=1e-6)


@pytest.mark.parametrize("words", [[], [0.5] * 7, [0.5] * 9, [0.5] * 7 + [None], [0.5] * 7 + ["a"], None, 0.5])
def test_vector_of_another_length_is_refused(ranking: TestClient, words: Any) -> None:
    """Too few numbers, too many, none, or what is no number is refused as it is decoded, and its place is told."""
    with pytest.raises(InvalidRequestError, match=r"words") as caught:
        ranking.predict({"user_id": 1, "item_ids": [2], "words": words})
    assert caught.value.status == 422


@pytest.mark.parametrize("value", ["1e999", "NaN", "-Infinity"])
def test_number_that_is_none_is_refused_in_a_vector(ranking: TestClient, value: str) -> None:
    """Inside a vector a number is held to what it is held to outside."""
    body = f'{{"user_id":1,"item_ids":[2],"words":[{",".join(["0.5"] * 7 + [value])}]}}'
    with pytest.raises((InvalidRequestError, MalformedBodyError)):
        ranking.predict_bytes(body.encode())


def test_model_gives_vectors(embedding: TestClient, folder: Path) -> None:
    """As a list, and as little-endian bytes in base64: of float32, or of float16 for half the size."""
    rows = RNG.random((3, 4))
    answers: Any = embedding.predict([{"words": row.tolist(), "weight": 0.25} for row in rows])
    inputs = np.column_stack([rows, np.full(3, 0.25)]).astype(np.float32)
    expected = load_model(folder / "models" / "embedding").predict({"x": inputs})
    for answer, vector in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer["numbers"], vector, rtol=1e-6)
        whole = np.frombuffer(base64.b64decode(answer["whole"]), "<f4")
        half = np.frombuffer(base64.b64decode(answer["half"]), "<f2")
        np.testing.assert_array_equal(whole, vector)
        np.testing.assert_allclose(half, vector, rtol=1e-3)
        assert len(answer["half"]) < len(answer["whole"]) < len(str(answer["numbers"]))


def test_signature_says_what_is_a_vector(folder: Path) -> None:
    """The manifest has the width of each feature, and that the output is one vector."""
    ranking, embedding = (load_model(folder / "models" / name).signature for name in ("vectors", "embedding"))
    assert [(spec.name, spec.width) for spec in ranking.inputs][:2] == [
        ("UserVector.taste", WIDTH),
        ("UserVector.boost", 1),
    ]
    assert embedding.inputs[0].widths == (4, 1)
    assert (embedding.vector, embedding.classes, embedding.column) == (3, (), None)
    profile = load_model(folder / "models" / "embedding").manifest.profile
    assert (len(profile.scores), profile.features["words"].count) == (1, 40)


def test_vector_of_the_wrong_length_does_not_compile(folder: Path, tmp_path: Path) -> None:
    """A view's vector, a field's and an output are held against what the model takes and gives."""
    source = (PIPELINES / "vectors.py").read_text()
    shutil.copytree(folder / "models", tmp_path / "models")
    (tmp_path / "vectors.py").write_text(source.replace("WIDTH = 8", "WIDTH = 7"))
    with pytest.raises(CompileError) as caught, TestClient.of_file(tmp_path / "vectors.py"):
        pass
    told = str(caught.value)
    assert "takes a vector of 8 here, this is a vector of 7" in told
    assert "features.UserVector.taste" in told
    source = (PIPELINES / "embedding.py").read_text()
    (tmp_path / "embedding.py").write_text(
        source.replace("    numbers: Annotated[list[float], tr.Embedding()]", "    score: float")
    )
    with (
        pytest.raises(CompileError, match="gives a vector of 3, no score"),
        TestClient.of_file(tmp_path / "embedding.py"),
    ):
        pass


def test_embedding_of_a_model_of_scores_does_not_compile(folder: Path, tmp_path: Path) -> None:
    """A field that is marked as a vector wants a model that gives one."""
    shutil.copytree(folder / "models", tmp_path / "models")
    source = (PIPELINES / "vectors.py").read_text()
    (tmp_path / "vectors.py").write_text(
        source.replace("score: list[float]", "score: list[Annotated[bytes, tr.Embedding()]]")
    )
    with (
        pytest.raises(CompileError, match="the model gives scores, no vector"),
        TestClient.of_file(tmp_path / "vectors.py"),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "columns", "told"),
    [({}, {"x": RNG.random((40, 4))}, "has 5 columns; the data has 4"),
     ({"embedding": True}, {"x": RNG.random((40, 5))}, ""),
     ({}, {"x": [[0.5] * 5] * 39 + [[0.5] * 4]}, "vectors are of one length"),
     ({}, {"x": [[0.5] * 5] * 39 + [[0.5] * 4 + [None]]}, "vectors are of one length")],
)  # fmt: skip
def test_packaging_holds_vectors_to_the_graph(
    options: Any, columns: Any, told: str, folder: Path, tmp_path: Path
) -> None:
    """A graph takes vectors of its own width alone, whole ones."""
    table = table_of(**columns) if isinstance(columns["x"], np.ndarray) else pa.table(columns)
    if not told:
        assert (
            package(folder / "embedding.onnx", table, name="m", out=tmp_path / "m", **options).manifest.signature.vector
            == 3
        )
        return
    with pytest.raises(ModelPackageError, match=told):
        package(folder / "embedding.onnx", table, name="m", out=tmp_path / "m", **options)


def test_versions_that_take_vectors_are_compared(folder: Path, tmp_path: Path) -> None:
    """A vector is one feature of both; models of other widths, in or out, are told apart and not subtracted."""
    one = load_model(folder / "models" / "embedding")
    found = compare(one, one)
    assert isinstance(found, Differences)
    assert (found.rows, found.max) == (2 * len(one.manifest.golden.scores), 0.0)
    package(folder / "embedding.onnx", table_of(words=RNG.random((40, 3)), weight=RNG.random((40, 2))), name="m",
            out=tmp_path / "m", embedding=True)  # fmt: skip
    assert compare(one, load_model(tmp_path / "m")) == "they take vectors of other lengths: weight, words"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")  # Ibis 12 calls what DuckDB 2 deprecates
def test_vectors_are_shown(folder: Path, tmp_path: Path) -> None:
    """A check says how long the vectors are that a model takes; what the store holds of an entity has its vectors."""
    shutil.copytree(folder, tmp_path / "all")
    vectors = RNG.random((3, WIDTH)).astype(np.float16)
    parquet.write_table(
        table_of(user_id=np.arange(3), taste=RNG.random((3, WIDTH)), boost=np.ones(3)), tmp_path / "all/users.parquet"
    )
    items = {"item_ids": range(3), "title": ["a", "b", "c"], "meaning": vectors.astype(np.float64).tolist()}
    parquet.write_table(pa.table(items), tmp_path / "all/items.parquet")
    file = str(tmp_path / "all" / "vectors.py")
    checked = run("check", file)
    assert "float32 × 8" in checked
    run("materialize", file)
    shown = msgspec.json.decode(run("features", file, "item", "2", "--json"))
    assert shown["values"] == {"title": "c", "meaning": vectors[2].tolist()}


def run(*words: str) -> str:
    """Return what a command prints."""
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_vector_that_is_none_is_the_fallback(folder: Path, tmp_path: Path) -> None:
    """A row whose vector is not finite has the constant one, and its neighbour in the batch its own."""
    shutil.copytree(folder / "models", tmp_path / "models")
    source = (PIPELINES / "embedding.py").read_text()
    constant = 'tr.Model("embedding", fallback=tr.Constant((1.0, 2.0, 3.0)))'
    (tmp_path / "embedding.py").write_text(source.replace('tr.Model("embedding")', constant))
    with TestClient.of_file(tmp_path / "embedding.py") as client:
        answers: Any = client.predict([{"words": [0.5] * 4, "weight": weight} for weight in (1e300, 1.0)])
    assert answers[0]["numbers"] == [1.0, 2.0, 3.0]
    expected = load_model(tmp_path / "models" / "embedding").predict({"x": np.array([[0.5] * 4 + [1.0]], np.float32)})
    np.testing.assert_allclose(answers[1]["numbers"], expected[0], rtol=1e-6)
