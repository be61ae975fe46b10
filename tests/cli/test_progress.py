from __future__ import annotations

import pytest

from tailrace.cli.progress import progress_bar


def test_bar_is_for_terminals(capfd: pytest.CaptureFixture[str]) -> None:
    """A file, or a program that reads, gets nothing of it, on either output."""
    for width in (0, 8):
        with progress_bar("begins", width=width) as show:
            show("training and measuring", 3, 7)
            show("counting", 3, 0)
    assert capfd.readouterr() == ("", "")
