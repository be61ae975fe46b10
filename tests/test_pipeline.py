from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import tailrace as tr
from tailrace.compile.compiler import compile_plan
from tailrace.compile.loading import load_pipelines
from tailrace.errors import CompileError, SetupError
from tailrace.features.stores.memory import MemoryStore
from tailrace.pipeline import Pipeline

GOOD = """
import tailrace as tr

class Amount(tr.Request):
    amount: float

class Score(tr.Response):
    score: float

one = tr.Pipeline(name="one", request=Amount, response=Score, features=[Amount.amount],
                  model=tr.Model("log"), budget=tr.Budget("50ms"))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for declarations; what they put on the import path is taken off again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def write(path: Path, text: str) -> Path:
    """Write a file and return its path."""
    path.write_text(text)
    return path


def test_pipelines_of_a_file_are_found_in_order(folder: Path) -> None:
    """Every pipeline at the top level, once, with the file's folder for its relative paths."""
    path = write(
        folder / "two.py", GOOD + "from dataclasses import replace\ntwo = replace(one, name='two')\nagain = two\n"
    )
    found = load_pipelines(path)
    assert [pipeline.name for pipeline in found] == ["one", "two"]
    assert {pipeline.base_dir for pipeline in found} == {folder}


def test_imported_pipeline_counts_as_the_files_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is served, and its relative paths are of the file that is loaded, not of the one that declares it."""
    (folder / "library").mkdir()
    write(folder / "library" / "declared_elsewhere.py", GOOD)
    monkeypatch.syspath_prepend(folder / "library")
    importing = "from dataclasses import replace\nfrom declared_elsewhere import one\ntwo = replace(one, name='two')\n"
    found = load_pipelines(write(folder / "importing.py", importing))
    assert [(pipeline.name, pipeline.base_dir) for pipeline in found] == [("one", folder), ("two", folder)]
    del sys.modules["declared_elsewhere"]


def test_missing_file_is_told(folder: Path) -> None:
    """The path that was asked for stands in the error."""
    with pytest.raises(SetupError, match="no such file") as caught:
        load_pipelines(folder / "none.py")
    assert "none.py" in caught.value.where


def test_file_without_pipeline_is_told(folder: Path) -> None:
    """It says what to add."""
    with pytest.raises(SetupError, match="declares no pipeline") as caught:
        load_pipelines(write(folder / "empty.py", "x = 1\n"))
    assert "tr.Pipeline" in caught.value.next


def test_two_pipelines_of_one_name_are_told(folder: Path) -> None:
    """A name is a path of the server; it stands for one pipeline."""
    text = GOOD + "from dataclasses import replace\ntwo = replace(one, rows_max=5)\n"
    with pytest.raises(SetupError, match="two pipelines share a name: \\['one', 'one'\\]"):
        load_pipelines(write(folder / "same.py", text))


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("x = 1\n\ny = 1 / 0\n", 3, "ZeroDivisionError: division by zero"),
        ("import nothing_of_this_name\n", 1, "ModuleNotFoundError"),
        ("def f():\n    return g()\n\ndef g():\n    return missing\n\nf()\n", 5, "NameError"),
        ("x = 1\ny = (\n", 2, "SyntaxError"),
        ("import tailrace as tr\n\ntr.Budget('fast')\n", 3, "'fast' is not a duration"),
        ("import tailrace as tr\n\ntr.Budget('0ms')\n", 3, "no call can be answered in no time"),
        ("import tailrace as tr\n\ntr.Budget(50)\n", 3, "50 is not a duration"),
        ("import tailrace as tr\n\n\nm = tr.Model('a/b')\n", 4, "a model's name"),
        ("import tailrace as tr\n\n\nm = tr.Model('a', fallback=0.5)\n", 4, "write tr.Constant(0.5)"),
        ("import tailrace as tr\n\n\nm = tr.Model(5)\n", 4, "a model's name"),
        ("import tailrace as tr\n\n\nm = tr.Constant(b'0.5')\n", 4, "a finite number"),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_error_in_a_file_is_told_with_its_line(
    text: str, line: int, what: str, relative: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the file raises, the error names the innermost line of that file, by a relative path too."""
    path = write(folder / "broken.py", text)
    monkeypatch.chdir(folder)
    with pytest.raises(SetupError) as caught:
        load_pipelines(Path("broken.py") if relative else path)
    assert what in caught.value.what
    assert caught.value.where == f"{path}:{line}"


KINDS: dict[str, tuple[Any, str]] = {
    "name": (7, "7 is of type int"),
    "request": (dict, "is of type type"),
    "response": ("Score", "'Score' is of type str"),
    "features": ("amount", "'amount' is of type str"),
    "model": ("fraud", "'fraud' is of type str"),
    "budget": ("50ms", "'50ms' is of type str"),
    "decision": (tr.bands, "is of type function"),
    "rules": (tr.Rule("r", lambda request: request.amount > 1, "low"), "is of type Rule"),
    "store": (Path("store"), "is of type PosixPath"),
    "rows_max": ("9", "'9' is of type str"),
}


@pytest.mark.parametrize("argument", KINDS)
def test_argument_of_another_kind_is_told(argument: str, pipeline_of: Callable[[str], Pipeline]) -> None:
    """Said where it is declared, by its name, with what to write."""
    value, what = KINDS[argument]
    with pytest.raises(CompileError) as caught:
        replace(pipeline_of("log"), **{argument: value})
    (problem,) = caught.value.problems
    assert what in problem.what
    assert problem.where == argument
    assert problem.next


def test_arguments_of_another_kind_are_told_at_once(folder: Path) -> None:
    """All of a file's pipeline are one error, not wrapped in another."""
    text = GOOD.replace(
        'tr.Model("log"), budget=tr.Budget("50ms")', '"log", budget="50ms", decision="low", rules=[len]'
    )
    with pytest.raises(CompileError, match="'one' has 4 mistakes") as caught:
        load_pipelines(write(folder / "kinds.py", text))
    assert [problem.where for problem in caught.value.problems] == ["model", "budget", "decision", "rules[0]"]
    assert 'next: write budget=tr.Budget("50ms")' in str(caught.value)


def test_files_of_one_name_do_not_mix(folder: Path) -> None:
    """Two folders may each hold a pipeline.py; the annotations of each are its own."""
    found = []
    for name, kind in (("a", "int"), ("b", "str")):
        (folder / name).mkdir()
        text = "from __future__ import annotations\n" + GOOD.replace("amount: float", "amount: float\n    id: Id")
        path = write(folder / name / "pipeline.py", text.replace("class Amount", f"Id = {kind}\n\nclass Amount"))
        found += load_pipelines(path)
    assert [kind.__name__ for kind in map(id_type, found)] == ["int", "str"]


def id_type(pipeline: Pipeline) -> type:
    """Return the type of the field `id`, read as the compiler reads it."""
    return get_type_hints(pipeline.request)["id"]  # type: ignore[no-any-return]


def test_column_of_a_view_is_a_feature_by_itself(pipeline_of: Callable[[str], Pipeline]) -> None:
    """Naming one column brings its view, and only that column reaches the model."""
    payment = pipeline_of("payment")
    assert [view.__name__ for view in payment.views] == ["CustomerProfile", "TerminalProfile"]


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_model_file_cut_short_is_a_compile_error(part: float, pipelines_dir: Path, folder: Path) -> None:
    """A model that is not whole is told with its file, and never served."""
    shutil.copytree(pipelines_dir / "models" / "log", folder / "models" / "log")
    onnx = folder / "models" / "log" / "model.onnx"
    onnx.write_bytes(onnx.read_bytes()[: int(onnx.stat().st_size * part)])
    (pipeline,) = load_pipelines(write(folder / "cut.py", GOOD))
    with pytest.raises(CompileError) as caught:
        compile_plan(pipeline, MemoryStore())
    (problem,) = caught.value.problems
    assert "cut short or altered" in problem.what
    assert problem.where == str(onnx)
    assert "tailrace package" in problem.next
