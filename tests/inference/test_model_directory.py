"""A model directory that is replaced while it is read."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from tailrace.inference.model_directory import READ_BYTES, read_in_parts, read_while_replaced


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


def test_large_file_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No single read takes more than a part, and all of them together are the file."""
    content = os.urandom(2 * READ_BYTES + 7)
    (tmp_path / "model.onnx").write_bytes(content)
    sizes: list[int] = []

    class Reading(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            part = super().read(size)
            sizes.append(len(part))
            return part

    monkeypatch.setattr(Path, "open", lambda self, *args, **options: Reading(self))
    assert read_in_parts(tmp_path / "model.onnx") == content
    assert sizes == [READ_BYTES, READ_BYTES, 7, 0]
