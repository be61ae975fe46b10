"""LightGBM's text is held against what it holds within the memory that its length allows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tailrace.inference.backends.lightgbm_text import check_text

CHILD = """
import resource
import sys

from tailrace.inference.backends.lightgbm_text import _values

text = {b"num_class": b"1 " * 500_000}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
_values(text, "num_class", 500_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
"""What a line of a megabyte takes, in KiB, in a process that has needed little before."""


def text_of(leaves: bytes) -> bytes:
    """Return the text of a model whose one tree has a list of whole numbers as it is given."""
    tree = b"0\nnum_leaves=1\nnum_cat=0\nleaf_value=0.5\nis_linear=1\nleaf_const=0.5\nnum_features=" + leaves
    size = len(b"\nTree=" + tree)
    head = b"tree\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\nmax_feature_idx=0\nfeature_names=a\n"
    ends = b"\nend of trees\nparameters:\nend of parameters\n"
    return head + b"tree_sizes=%d" % size + b"\nTree=" + tree + ends


def test_long_line_takes_memory_as_it_is_long() -> None:
    """A hundred bytes for each byte would let a file of 100 MB take 10 GB before anything is seen to be wrong."""
    told = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, check=True, text=True).stdout
    assert int(told) < 60 << 10


@pytest.mark.parametrize("words", [b"0", b" 0", b"0 ", b"  0  ", b"-0", b"0000000000"])
def test_whole_number_is_taken_with_spaces_around_it(words: bytes) -> None:
    """As the library takes it."""
    check_text(text_of(words))


@pytest.mark.parametrize(
    "words", [b"0x", b"- 0", b"--0", b"0-", b"0-0", b"00000000000", b"0\t", b"+0", b"0.0", b"0 -", b"0 -  "]
)
def test_what_is_no_whole_number_is_refused(words: bytes) -> None:
    """However much of it is one."""
    with pytest.raises(ValueError, match="num_features holds what is no whole number"):
        check_text(text_of(words))
