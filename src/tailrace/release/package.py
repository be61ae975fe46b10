"""A trained model made into a model directory: converted, compared with the original, profiled, written whole."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.calibration import Calibration
from tailrace.inference.curve import CostCurve, measure_curve
from tailrace.inference.declaration import Model
from tailrace.inference.loading import load_model
from tailrace.inference.manifest import (
    CALIBRATION_FILE,
    FORMAT_VERSION,
    MANIFEST_FILE,
    Manifest,
    ModelSource,
    encode_manifest,
)
from tailrace.release.calibration import METHODS, cross_calibrate, fit_calibration, read_fitted
from tailrace.release.comparison import Comparison, compare_calibrated, find_finite
from tailrace.release.convert import convert
from tailrace.release.exchange import check_place, drafted, written
from tailrace.release.explained import check_explained, with_explain_file
from tailrace.release.forms import ChosenForm, choose_forms, fill_directory
from tailrace.release.golden import pick_golden
from tailrace.release.metrics import find_truth, measure_quality
from tailrace.release.model_file import refuse_pickle
from tailrace.release.original import Original, load_original
from tailrace.release.profile import profile_model
from tailrace.release.rows import Rows, read_rows
from tailrace.release.table import feature_columns, read_outcomes, read_table, spread_rows
from tailrace.release.torch_program import exported

ROWS_SCORED_MAX: Final = 100_000
"""Rows that the metrics and the reference profile are computed on; a larger table is sampled evenly."""

STEPS: Final = ("read", "convert", "compare", "profile", "tabulate", "write", "verify")
"""What packaging goes through, for a progress bar."""

ROWS_ROUNDED: Final = "rows_rounded"
"""The metric that counts the rows compared which float32 moves across a split; it is there where there are some."""
DIFFERENCE_ROUNDED: Final = "difference_rounded"
"""The metric that says how far the scores of those rows are from the original's, at most."""
ROWS_TEXT: Final = "rows_text"
"""The metric that counts the rows compared whose text ONNX reads otherwise; it is there where there are some."""
DIFFERENCE_TEXT: Final = "difference_text"
"""The metric that says how far the scores of those rows are from the original's, at most."""
ROWS_UNSCORED: Final = "rows_unscored"
"""The metric that counts the rows of the data whose score is no number; it is there where there are some."""
GOLDEN_LEFT_OUT: Final = "golden_left_out"
"""The metric that counts the rows which are no golden ones since float32 or ONNX scores them otherwise, if any."""


class Crossed(NamedTuple):
    """Each row's score by a calibration fitted without the row, (rows,), and what the calibration does to them."""

    scores: NDArray[np.float64]
    metrics: dict[str, float | int | str]


@dataclass(frozen=True, slots=True)
class PackageReport:
    """What `package` wrote.

    size_bytes: of the whole directory. curve: the model's cost here. backend: that this machine would choose;
    backend_reason: why it is not a preferred one; empty where it is. texts: some of those that were let through though
    ONNX reads them otherwise than the original.
    """

    directory: Path
    manifest: Manifest
    size_bytes: int
    curve: CostCurve
    backend: str
    backend_reason: str
    texts: tuple[str, ...] = ()


def package(
    model: Any,
    data: Any,
    *,
    name: str,
    out: str | Path,
    target: str | None = None,
    metrics: Mapping[str, float | int | str] | None = None,
    embedding: bool = False,
    calibrate: Any = None,
    text_tolerance: float = 0.0,
    native: bool = False,
    explain: bool = False,
    allow_pickle: bool = False,
    overwrite: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> PackageReport:
    """Write a trained model as the directory `out`, ready to be served.

    model: a LightGBM, XGBoost, CatBoost or scikit-learn model, a module or an exported program of PyTorch, or the path
        of one, as `tailrace.release.original.load_original` takes it.
    data: rows as the model was trained on (better: held back), as a pyarrow table, pandas DataFrame, or the path of a
        Parquet or CSV file. Its columns are found by the names of the model's features; other columns are ignored.
        The original scores them as they are, the conversion as float32.
    target: the column of outcomes; with it the model's metrics are computed. metrics: more of them, taken as given.
    embedding: an ONNX model's output is a vector a row, no scores.
    calibrate: "isotonic" or "platt", fitted on the data's outcomes; or a fitted IsotonicRegression or
        LogisticRegression of the model's score, or the path of one. None leaves the scores as they are.
    text_tolerance: the share of rows, 0 to 1, that may be scored otherwise since ONNX reads their text otherwise.
    native: it is to be computed by the library that trained it, and no other form is written. So is a model for which
        ONNX has no form. Where the library proves to be faster than ONNX Runtime its form is written beside the graph.
    explain: the trees are kept as their library wrote them, so that a pipeline can explain their scores.
    allow_pickle: a pickle may be opened, of a model or a calibration: it runs whatever code it holds.
    on_step: called with each of `STEPS` as it begins.
    Raises ModelPackageError, and leaves `out` as it was, when the model has no form that is served, a score of its form
    is over 1e-5 from the original's (but for 1 row in 1,000 that float32 moves across a split), what is to be explained
    cannot be, or `out` exists. A form beside the graph (tables, the library's own) is left out, and the manifest says
    why, where it does not fit the model or scores it otherwise. The backend is chosen where the model is served.
    """
    out = Path(out)
    check_name(name)
    check_place(out, overwrite=overwrite)
    on_step("read")
    table = _read(data, target)
    original = load_original(exported(model, table, target), allow_pickle=allow_pickle)
    method = calibrate if isinstance(calibrate, str) and calibrate in METHODS else None
    if calibrate is not None and method is None:
        original = original.calibrated(_read_calibration(calibrate, allow_pickle=allow_pickle))
    convert_it = None if native else partial(convert, original, table, target, embedding=embedding)
    forms = choose_forms(original, table, target, convert_it, text_tolerance, on_step)
    crossed: Crossed | None = None
    if method is not None:
        original, crossed = _calibrate(method, original, forms.chosen, table, target)
        forms = forms._replace(chosen=compare_calibrated(original, forms.chosen, table, text_tolerance))
    on_step("profile")
    manifest, contents = _describe(name, original, forms, table, target, on_step, explain=explain, crossed=crossed)
    manifest = replace(manifest, metrics=manifest.metrics | dict(metrics or {}))
    on_step("write")
    report = _write(out, manifest, contents, on_step, explain=explain)
    return dataclasses.replace(report, texts=forms.chosen.texts)


def _read(data: Any, target: str | None) -> Any:
    """Return the table of the features and the target."""
    table = read_table(data)
    if target is not None and target not in table.column_names:
        raise ModelPackageError(f"the data has no column {target!r}", where="target", next="name a column of the data")
    return feature_columns(table, target)


def _read_calibration(calibrate: Any, *, allow_pickle: bool) -> Calibration:
    """Return a calibration that is fitted already; the path of one is a pickle's."""
    if isinstance(calibrate, str | Path) and Path(calibrate).is_file() and not allow_pickle:
        raise refuse_pickle(Path(calibrate))
    return read_fitted(calibrate)


def _calibrate(
    method: str, original: Original, chosen: Comparison, table: Any, target: str | None
) -> tuple[Original, Crossed]:
    """Return the original with a calibration that is fitted on the data, and the scores by which that is judged."""
    if target is None:
        raise ModelPackageError(
            "a calibration is fitted by outcomes", where="target", next="name their column: --target is_fraud"
        )
    original.check_calibration()
    rows, scored = _scored_rows(original, chosen, spread_rows(table, ROWS_SCORED_MAX))
    scores = chosen.score(rows.feeds(chosen.signature.inputs))
    truth = find_truth(read_outcomes(scored, target), chosen.signature.classes).astype(np.bool_)
    calibrated = cross_calibrate(method, scores, truth)
    metrics: dict[str, float | int | str] = {
        "brier": float(np.mean((calibrated - truth) ** 2)),
        "brier_uncalibrated": float(np.mean((scores - truth) ** 2)),
    }
    return original.calibrated(fit_calibration(method, scores, truth)), Crossed(calibrated, metrics)


def _describe(
    name: str,
    original: Original,
    forms: ChosenForm,
    table: Any,
    target: str | None,
    on_step: Callable[[str], None],
    *,
    explain: bool,
    crossed: Crossed | None,
) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest of a model in its forms, and the files that go beside it.

    crossed: what the metrics are of, where the scores that are served have seen the outcomes.
    """
    chosen = forms.chosen
    sample = spread_rows(table, ROWS_SCORED_MAX)
    rows, scored = _scored_rows(original, chosen, sample)
    feeds = rows.feeds(chosen.signature.inputs)
    scores = chosen.score(feeds)
    finite = find_finite(scores)
    judged, found = (scores, {}) if crossed is None else crossed
    golden, left_out = pick_golden(original, chosen, rows.take(np.flatnonzero(finite)), scores[finite])
    odd = {ROWS_UNSCORED: int((~finite).sum()), GOLDEN_LEFT_OUT: left_out}
    on_step("tabulate")
    contents = fill_directory(original, forms, table, feeds)
    files = with_explain_file(original, {**contents.files}) if explain else {**contents.files}
    if chosen.calibration is not None:
        files[CALIBRATION_FILE] = msgspec.json.encode(chosen.calibration)
    manifest = Manifest(
        format=FORMAT_VERSION,
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        signature=chosen.signature,
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        source=_source_of(original, chosen),
        metrics=_measure(chosen, judged[finite], scored.filter(finite), target)
        | {name: count for name, count in odd.items() if count}
        | found,
        profile=profile_model(chosen.signature, sample, scores[finite]),
        golden=golden,
        reasons=dict(contents.reasons),
        times=contents.times,
        trusted=contents.trusted,
        vocabularies=original.vocabularies,
    )
    return manifest, files


def check_name(name: str) -> None:
    """Raise ModelPackageError for a name that no model can have."""
    try:
        Model(name)
    except ValueError as error:
        raise ModelPackageError(
            str(error), where="name", next="name it as the pipeline does: tr.Model('fraud')"
        ) from error


def _scored_rows(original: Original, chosen: Comparison, table: Any) -> tuple[Rows, Any]:
    """Return the rows that get a score in serving, and the table of them: all, or those without a NaN that has none.

    Rows that were compared have no such NaN, but a large table has others beside them.
    """
    rows = read_rows(table, chosen.signature.feature_names, original.nulls)
    if chosen.missing or (known := rows.known(chosen.unfilled_inputs)).all():
        return rows, table
    return rows.take(known), table.filter(known)


def _source_of(original: Original, chosen: Comparison) -> ModelSource:
    return ModelSource(
        framework=original.framework,
        version=original.version,
        model_type=original.model_type,
        difference_max=chosen.difference_max,
        rows_compared=chosen.rows_compared,
        rewrite=chosen.converted.rewrite,
        missing=chosen.missing,
        unfilled=chosen.unfilled,
    )


def _measure(chosen: Comparison, scores: NDArray[Any], scored: Any, target: str | None) -> dict[str, float | int | str]:
    """Return the metrics of the scores against a column of the table, if one is named, and of the rounding if any."""
    quality: dict[str, float | int | str] = {}
    if chosen.rows_rounded:
        quality = {ROWS_ROUNDED: chosen.rows_rounded, DIFFERENCE_ROUNDED: chosen.difference_rounded}
    if chosen.rows_text:
        quality |= {ROWS_TEXT: chosen.rows_text, DIFFERENCE_TEXT: chosen.difference_text}
    if target is not None:
        quality |= measure_quality(scores, read_outcomes(scored, target), chosen.signature.classes)
    return quality


def _write(
    out: Path, manifest: Manifest, contents: Mapping[str, bytes], on_step: Callable[[str], None], *, explain: bool
) -> PackageReport:
    """Write the directory beside `out`, verify it as serving would, and put it in place.

    contents: of the files beside the manifest.
    """
    with written(out), drafted(out) as draft:
        for name, content in contents.items():
            (draft / name).write_bytes(content)
        (draft / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
        on_step("verify")
        model = load_model(draft, trusted=manifest.trusted)
        if explain:
            check_explained(model, draft)
        curve = measure_curve(model)
        size = sum(file.stat().st_size for file in draft.iterdir())
    return PackageReport(out, manifest, size, curve, model.backend, model.backend_reason)
