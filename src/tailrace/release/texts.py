"""The text operators of a converted graph: made to find the words that scikit-learn finds, on any machine."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tailrace.release.graph_writer import GraphWriter
from tailrace.release.refusals import NoGraphError

LOCALE: Final = "C.UTF-8"
"""It knows every letter's case, and Debian, Ubuntu and Fedora have it in their slim images. The operator's own default,
en_US.UTF-8, is a package that these leave out, and without it ONNX Runtime refuses the whole graph."""

WORDS: Final = r"[\p{L}\p{N}_]{2,}"
r"""scikit-learn's own words, `(?u)\b\w\w+\b`, as RE2 has them."""
_WORDS_CONVERTED: Final = "[a-zA-Z0-9_]+"
"""What skl2onnx writes for them: it would cut `Straße` in two."""
CHARACTERS: Final = "(?s:.)"
"""Any character, a line's end as well."""
_CHARACTERS_CONVERTED: Final = "."
_MENDED: Final = {_WORDS_CONVERTED: WORDS, _CHARACTERS_CONVERTED: CHARACTERS}


def check_texts(model: Any) -> None:
    """Raise NoGraphError for a vectorizer, in a scikit-learn model, that has no form in ONNX."""
    for name, value in model.get_params().items():
        if name.endswith("analyzer") and value == "char_wb":
            raise _no_form("takes runs of letters inside words (analyzer='char_wb')", "use analyzer='char' or 'word'")
        if name.endswith("strip_accents") and value is not None:
            raise _no_form(
                "strips accents", "strip them before the text comes to the model, in training and in serving"
            )


def _no_form(what: str, instead: str) -> NoGraphError:
    return NoGraphError(f"a step {what}, for which there is no form in ONNX", where="model", next=instead)


def mend_texts(graph: Any, model: Any) -> None:
    """Set the locale of a graph's StringNormalizers, and what its Tokenizers find where that is scikit-learn's default.

    model: the scikit-learn model that the graph was converted from.
    """
    from onnx import helper

    patterns = [value for name, value in model.get_params().items() if name.endswith("token_pattern")]
    for node in graph.graph.node:
        if node.op_type == "StringNormalizer":
            kept = [attribute for attribute in node.attribute if attribute.name != "locale"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("locale", LOCALE)])
        elif node.op_type == "Tokenizer":
            for attribute in node.attribute:
                found = attribute.s.decode() if attribute.name == "tokenexp" else ""
                if found in _MENDED and found not in patterns:  # else it may be the model's own
                    attribute.s = _MENDED[found].encode()


def convert_counts(scope: Any, operator: Any, container: Any) -> None:
    """Write a `TfidfVectorizer`, a `TfidfTransformer`, or a part of the first, into a graph, for skl2onnx.

    Words are found and counted as skl2onnx has it. What is made of the counts stands here: skl2onnx takes log(1 + n)
    for the 1 + log(n) of `sublinear_tf`, and passes over the vocabulary more often: of 20,000 words that takes 84 µs a
    text in place of 47.
    """
    from skl2onnx.common._registration import get_converter

    tfidf = operator.raw_operator
    if operator.type != "SklearnTfidfTransformer":
        get_converter(operator.type)(scope, operator, container)
        if operator.type == "SklearnCountVectorizer" and _counts_in_weights(tfidf):
            _count_in_weights(container.nodes, tfidf.idf_)
        return
    graph = GraphWriter(scope, container)
    weights = operator.inputs[0].full_name
    if tfidf.sublinear_tf:
        one = graph.constant(np.ones(1, np.float32))
        logarithm = graph.node("Add", [graph.node("Log", [graph.node("Max", [weights, one])]), one])
        weights = graph.node("Mul", [graph.node("Sign", [weights]), logarithm])
    if tfidf.use_idf and not _counts_in_weights(tfidf):
        weights = graph.node("Mul", [weights, graph.constant(tfidf.idf_.astype(np.float32))])
    if tfidf.norm is not None:
        norm = graph.node(f"Reduce{tfidf.norm.upper()}", [weights], axes=[1], keepdims=1)
        least = graph.constant(np.array([np.finfo(np.float32).tiny]))  # of a text without a known word
        weights = graph.node("Div", [weights, graph.node("Max", [norm, least])])
    graph.write("Identity", [weights], operator.outputs[0].full_name)


def _counts_in_weights(tfidf: Any) -> bool:
    """Return whether a vectorizer's words may be counted in their weights: nothing stands between the two."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return isinstance(tfidf, TfidfVectorizer) and tfidf.use_idf and not tfidf.sublinear_tf and not tfidf.binary


def _count_in_weights(nodes: Any, idf: Any) -> None:
    """Have the last counter of words give each word's count times its weight. idf: of the vocabulary, in its order."""
    from onnx import helper

    counter = next(node for node in reversed(nodes) if node.op_type == "TfIdfVectorizer")
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in counter.attribute}
    found |= {"mode": "TFIDF", "weights": [float(idf[place]) for place in found["ngram_indexes"]]}
    del counter.attribute[:]
    counter.attribute.extend(helper.make_attribute(name, value) for name, value in found.items())


def convert_text_imputer(scope: Any, operator: Any, container: Any) -> None:
    """Write a `SimpleImputer` into a graph, for skl2onnx.

    Of its own, but for nulls of texts: they come to a served model as "", so that "" is filled.
    """
    from onnx import TensorProto
    from skl2onnx.common._registration import get_converter
    from skl2onnx.common.data_types import StringTensorType

    imputer = operator.raw_operator
    texts = all(isinstance(variable.type, StringTensorType) for variable in operator.inputs)
    if not texts or isinstance(imputer.missing_values, str):
        get_converter(operator.type)(scope, operator, container)
        return
    graph = GraphWriter(scope, container)
    filled = []
    for (name, _), fill in zip(graph.columns(operator.inputs), imputer.statistics_, strict=True):
        empty = graph.node("LabelEncoder", [name], domain="ai.onnx.ml", version=2, keys_strings=[""],
                           values_int64s=[1], default_int64=0)  # fmt: skip
        null = graph.node("Cast", [empty], to=TensorProto.BOOL)
        filled.append(graph.node("Where", [null, graph.texts([str(fill)]), name]))
    graph.write("Concat", filled, operator.outputs[0].full_name, axis=1)
