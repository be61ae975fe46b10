"""The forms in which a trained model is packaged: a graph in ONNX, its own library's, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.table import ONNX_RUNTIME
from tailrace.inference.manifest import MODEL_FILE, BackendTimes
from tailrace.inference.packaged import GOLDEN_TOLERANCE, score_error
from tailrace.inference.predictor import Feeds
from tailrace.release.comparison import Comparison, choose_graph
from tailrace.release.convert import Converted
from tailrace.release.native import MAYBE_FASTER, NativeForm, is_faster, native_form, time_beside_onnx, without_graph
from tailrace.release.original import Original
from tailrace.release.refusals import NoGraphError
from tailrace.release.tabulation import tabulate_all


class ChosenForm(NamedTuple):
    """What gives a model's scores. native: its library's own form, where there is no graph; refusal: why not."""

    chosen: Comparison
    native: NativeForm | None = None
    refusal: str = ""


class Contents(NamedTuple):
    """The files of a model directory beside the manifest. reasons: why a backend has none. times: of two, if measured.

    trusted: the types that a file may hold.
    """

    files: Mapping[str, bytes]
    reasons: Mapping[str, str]
    times: BackendTimes | None = None
    trusted: tuple[str, ...] = ()


def choose_forms(
    original: Original,
    table: Any,
    target: str | None,
    convert: Callable[[], list[Converted]] | None,
    text_tolerance: float,
    on_step: Callable[[str], None],
) -> ChosenForm:
    """Return the form of a trained model whose scores are the original's on the data.

    convert: gives its graphs; None where its library's own form is asked for. That is taken as well for a model for
    which ONNX has no form. text_tolerance: as `package` takes it.
    Raises ModelPackageError where no form is left.
    """
    refusal = "its own library was asked for"
    on_step("convert")
    if convert is not None:
        try:
            candidates = convert()
        except NoGraphError as error:
            refused, refusal = error, error.what
        else:
            on_step("compare")
            return ChosenForm(choose_graph(original, candidates, table, text_tolerance))
    form = native_form(original, table, target)
    if form is None and convert is None:
        raise ModelPackageError(
            f"no library computes a {original.framework} {original.model_type} beside ONNX Runtime",
            where="model", next="package it without --native",
        )  # fmt: skip
    if form is None:
        raise refused
    on_step("compare")
    return ChosenForm(choose_graph(original, [without_graph(form)], table), form, refusal)


def fill_directory(original: Original, forms: ChosenForm, table: Any, feeds: Feeds) -> Contents:
    """Return the files of a model directory: each form that gives the chosen one's scores and may be the fastest.

    feeds: rows of the data. A library's own form stands beside a graph where it is faster than ONNX Runtime, and there
    are no tables.
    """
    chosen, native, refusal = forms
    if native is not None:
        return Contents({native.file: native.content}, {ONNX_RUNTIME: refusal}, trusted=native.trusted)
    tables = tabulate_all(chosen, feeds)
    files, times = {MODEL_FILE: chosen.converted.graph, **tables.contents}, tables.times
    if tables.contents:
        return Contents(files, tables.reasons, times)
    form = native_form(original, table, None) if original.framework in MAYBE_FASTER else None
    if form is not None and _agrees(form, chosen, feeds):
        times = time_beside_onnx(form, chosen, feeds)
        if is_faster(times, form.backend):
            files[form.file] = form.content
    return Contents(files, tables.reasons, times)


def _agrees(form: NativeForm, chosen: Comparison, feeds: Feeds) -> bool:
    """Return whether a library's own form takes a graph's inputs, and gives its scores."""
    try:
        scores = form.open(chosen.signature)(feeds)
    except ModelPackageError:
        return False
    expected = chosen.score_raw(feeds)
    return scores.shape == expected.shape and bool(np.all(score_error(scores, expected) <= GOLDEN_TOLERANCE))
