"""The text operators of a converted graph: made to find the words that scikit-learn finds, on any machine."""

from __future__ import annotations

from typing import Any, Final

LOCALE: Final = "C.UTF-8"
"""It knows every letter's case, and Debian, Ubuntu and Fedora have it in their slim images. The operator's own default,
en_US.UTF-8, is a package that these leave out, and without it ONNX Runtime refuses the whole graph."""

WORDS: Final = r"[\p{L}\p{N}_]{2,}"
r"""scikit-learn's own words, `(?u)\b\w\w+\b`, as RE2 has them."""
_WORDS_CONVERTED: Final = "[a-zA-Z0-9_]+"
"""What skl2onnx writes for them: it would cut `Straße` in two."""


def mend_texts(graph: Any, model: Any) -> None:
    """Set the locale of a graph's StringNormalizers, and the words of its Tokenizers where they are the default ones.

    model: the scikit-learn model that the graph was converted from.
    """
    from onnx import helper

    patterns = [value for name, value in model.get_params().items() if name.endswith("token_pattern")]
    for node in graph.graph.node:
        if node.op_type == "StringNormalizer":
            kept = [attribute for attribute in node.attribute if attribute.name != "locale"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("locale", LOCALE)])
        elif node.op_type == "Tokenizer" and _WORDS_CONVERTED not in patterns:  # else it may be the model's own
            for attribute in node.attribute:
                if attribute.name == "tokenexp" and attribute.s.decode() == _WORDS_CONVERTED:
                    attribute.s = WORDS.encode()
