"""Why a trained model is not converted."""

from __future__ import annotations

from tailrace.errors import ModelPackageError


class NoGraphError(ModelPackageError):
    """A trained model that has no form in ONNX; its own library may compute it."""
