"""The declaration: what a pipeline is. Frozen, without I/O; mistakes are told when it is compiled (plan.py)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MemberDescriptorType, ModuleType
from typing import Any

from tailrace.deadline import Budget
from tailrace.errors import SetupError
from tailrace.features.on_demand import OnDemandView
from tailrace.features.views import BatchFeatureView
from tailrace.inference.declaration import Model
from tailrace.postprocess.bands import Bands, Labels
from tailrace.postprocess.rules import Rule
from tailrace.request.schema import Request
from tailrace.response.schema import Response

Feature = MemberDescriptorType | type[BatchFeatureView] | OnDemandView
"""What stands in a pipeline's features: a request field (`Payment.amount`), a view, or an on-demand feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A decision service: request, features, model, decision, response, and the budget it keeps.

    features: in the order of the model's inputs. rules: what holds whatever the score. store: where materialised rows
    lie, a path or a URL (`lmdb:PATH`, `redis://HOST`); `--store` replaces it. rows_max: of one request with a
    list-valued entity key. Relative paths are relative to the file of the declaration.
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

    @property
    def views(self) -> tuple[type[BatchFeatureView], ...]:
        """The batch views among the features, and those that on-demand features or rules take by annotation."""
        found: dict[str, type[BatchFeatureView]] = {}
        for feature in self.features:
            taken = feature.parameters.values() if isinstance(feature, OnDemandView) else (feature,)
            for view in taken:
                if isinstance(view, type) and issubclass(view, BatchFeatureView):
                    found.setdefault(view.__name__, view)
        return tuple(found.values())


def load_pipelines(path: Path) -> list[Pipeline]:
    """Run a Python file and return the pipelines it declares at its top level, in order.

    Raises SetupError for a missing file, an error in it (told with its line), or a file without a pipeline.
    """
    module = _run(path)
    base_dir = path.resolve().parent
    found = [replace(value, base_dir=base_dir) for value in vars(module).values() if isinstance(value, Pipeline)]
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
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(f"tailrace_pipeline_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SetupError("not a Python file", where=str(path), next="name a .py file that declares a tr.Pipeline")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # any error of the user's own code is a mistake in the declaration
        line = next(
            (f":{frame.tb_lineno}" for frame in _frames(error) if frame.tb_frame.f_code.co_filename == str(path)), ""
        )
        raise SetupError(
            f"{type(error).__name__}: {error}", where=f"{path}{line}", next="the file must run; mend this line"
        ) from error
    return module


def _frames(error: BaseException) -> list[Any]:
    """Return the traceback's frames, innermost first."""
    frames: list[Any] = []
    frame = error.__traceback__
    while frame is not None:
        frames.insert(0, frame)
        frame = frame.tb_next
    return frames
