"""A model directory that is replaced while it is read."""

from __future__ import annotations

import os
from pathlib import Path

from tailrace.inference.model_directory import read_while_replaced


def test_directory_that_is_read_leaves_its_number_to_no_other(tmp_path: Path) -> None:
    """Where times are coarse, a new directory with the number of the one that is read would be taken for it."""
    directory = tmp_path / "model"
    directory.mkdir()
    numbers: list[int] = []

    def read() -> int:
        numbers.append(directory.stat().st_ino)
        if len(numbers) == 1:
            directory.rmdir()
            for each in range(20):  # one of them would have the number that is free
                (tmp_path / f"draft-{each}").mkdir()
            taken = {path.stat().st_ino for path in tmp_path.iterdir()}
            assert numbers[0] not in taken
            os.rename(tmp_path / "draft-0", directory)
        return numbers[-1]

    assert read_while_replaced(directory, read) == numbers[1]
    assert numbers[0] != numbers[1]
