"""The declaration: what a pipeline is. Frozen, without I/O.

An argument of another kind is told at once; all other mistakes are when the pipeline is compiled (compiler.py).
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import reprlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from traceback import extract_tb
from types import MemberDescriptorType, ModuleType
from typing import Any, get_type_hints

from tailrace.deadline import Budget
from tailrace.errors import CompileError, Problem, SetupError
from tailrace.features.on_demand import OnDemandView
from tailrace.features.views import BatchFeatureView, Column
from tailrace.inference.declaration import Model
from tailrace.postprocess.bands import Bands, Labels
from tailrace.postprocess.rules import Rule
from tailrace.request.schema import Request
from tailrace.response.schema import Response

Feature = MemberDescriptorType | type[BatchFeatureView] | Column | OnDemandView
"""What stands in a pipeline's features: a request field (`Payment.amount`), a view, one column of a view
(`CustomerProfile.avg_amount_90d`), or an on-demand feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A decision service: request, features, model, decision, response, and the budget it keeps.

    features: in the order of the model's inputs. rules: what holds whatever the score. store: where materialised rows
    lie, a path or a URL (`lmdb:PATH`, `redis://HOST`); `--store` replaces it. rows_max: of one request with a
    list-valued entity key. Relative paths are relative to the file that is loaded, whatever file declares it.
    Raises CompileError for arguments of another kind, all of them together.
    """

    name: str
    request: type[Request]
    response: type[Response]
    features: Sequence[Any]
    model: Model
    budget: Budget
    decision: Bands | Labels | None = None
    rules: Sequence[Rule] = ()
    store: str = "lmdb:.tailrace/store"
    rows_max: int = 1_000
    base_dir: Path = field(default=Path(), compare=False)

    def __post_init__(self) -> None:
        if problems := list(_wrong_kinds(self)):
            raise CompileError(str(self.name), problems)

    @property
    def views(self) -> tuple[type[BatchFeatureView], ...]:
        """The batch views among the features, and those that on-demand features or rules take by annotation."""
        found: dict[type[BatchFeatureView], None] = {}
        for feature in self.features:
            taken = feature.parameters.values() if isinstance(feature, OnDemandView) else (feature,)
            found |= dict.fromkeys(filter(None, map(_view_of, taken)))
        for rule in self.rules:
            found |= dict.fromkeys(filter(None, map(_view_of, rule_parameters(rule).values())))
        return tuple(found)


def _wrong_kinds(pipeline: Pipeline) -> Iterator[Problem]:
    """Give a problem for each argument that is not of its kind: what nobody who reads it could go on with."""
    kinds: list[tuple[str, Any, str]] = [
        ("name", str, 'name="fraud"'),
        ("features", Sequence, "features=[Payment.amount, …]"),
        ("model", Model, 'model=tr.Model("fraud")'),
        ("budget", Budget, 'budget=tr.Budget("50ms")'),
        ("decision", Bands | Labels | None, 'decision=tr.bands("score", …), tr.labels() or None'),
        ("rules", Sequence, "rules=[tr.Rule(…)]"),
        ("store", str, 'store="lmdb:PATH"'),
        ("rows_max", int, "rows_max=1_000"),
    ]
    for name, kind, example in kinds:
        value = getattr(pipeline, name)
        if not isinstance(value, kind) or (kind is Sequence and isinstance(value, str)):
            yield Problem(_kind_of(value), name, f"write {example}")
    bases: tuple[tuple[str, type], ...] = (("request", Request), ("response", Response))
    for name, base in bases:
        value = getattr(pipeline, name)
        if not isinstance(value, type) or not issubclass(value, base):
            yield Problem(_kind_of(value), name, f"name a class that extends tr.{base.__name__}")
    rules: Any = pipeline.rules
    for position, rule in enumerate(rules if isinstance(rules, Sequence) else ()):
        if not isinstance(rule, Rule):
            yield Problem(_kind_of(rule), f"rules[{position}]", "write tr.Rule(name, when, then)")


def _kind_of(value: Any) -> str:
    return f"{reprlib.repr(value)} is of type {type(value).__name__}"


def _view_of(item: Any) -> type[BatchFeatureView] | None:
    """Return the view that an item is, or is a column of; None for anything else."""
    if isinstance(item, Column):
        return next((view for view in _subclasses(BatchFeatureView) if vars(view).get(item.name) is item), None)
    return item if isinstance(item, type) and issubclass(item, BatchFeatureView) else None


def _subclasses(view: type[BatchFeatureView]) -> Iterator[type[BatchFeatureView]]:
    for subclass in view.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def rule_parameters(rule: Rule) -> dict[str, Any]:
    """Return the parameters of a rule's function, in order, each with its annotated type; None where it has none.

    Empty for what is no function: the compiler tells of it when it calls it.
    """
    function: Callable[..., Any] = rule.when
    try:
        names = tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}
    try:
        hints = get_type_hints(function)
    except Exception:  # any expression may stand in an annotation; without it the parameter's name must do
        hints = {}
    return {name: hints.get(name) for name in names}


def load_pipelines(path: Path) -> list[Pipeline]:
    """Run a Python file and return the pipelines at its top level, in order: its own, and those that it imports.

    Raises SetupError for a missing file, an error in it (told with its line), or a file without a pipeline.
    """
    module = _run(path)
    base_dir = path.resolve().parent
    declared = {id(value): value for value in vars(module).values() if isinstance(value, Pipeline)}
    found = [replace(value, base_dir=base_dir) for value in declared.values()]
    if not found:
        raise SetupError("the file declares no pipeline", where=str(path), next="add `name = tr.Pipeline(…)` to it")
    names = [pipeline.name for pipeline in found]
    if len(set(names)) < len(names):
        raise SetupError(f"two pipelines share a name: {names}", where=str(path), next="give each its own name")
    return found


def _run(path: Path) -> ModuleType:
    """Import the file as a module of its own name, with its folder on the path for what stands beside it."""
    if not path.is_file():
        raise SetupError("no such file", where=str(path), next="name a Python file that declares a tr.Pipeline")
    path = path.resolve()
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # A name of its own for each file, since annotations are looked up in the module of that name.
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"tailrace_pipeline_{path.stem}_{digest}", path)
    if spec is None or spec.loader is None:
        raise SetupError("not a Python file", where=str(path), next="name a .py file that declares a tr.Pipeline")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # any error of the user's own code is a mistake in the declaration
        del sys.modules[spec.name]
        if isinstance(error, CompileError):  # it names the pipeline and each argument
            raise
        raise SetupError(
            f"{type(error).__name__}: {error}", where=_place_of(error, path), next="the file must run; mend this line"
        ) from error
    return module


def _place_of(error: Exception, path: Path) -> str:
    """Return where in a file an error was raised, as path:line: the innermost line of that file."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}:{error.lineno}"
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)
