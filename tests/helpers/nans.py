"""Finding NaNs."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np


def nans(found: Any, path: str = "") -> list[str]:
    """Places of NaN in a record and everything in it."""
    if isinstance(found, enum.Enum | str | bytes) or found is None:
        return []
    if dataclasses.is_dataclass(found):
        return [p for f in dataclasses.fields(found) for p in nans(getattr(found, f.name), f"{path}.{f.name}")]
    if isinstance(found, Mapping):
        return [p for key, value in found.items() for p in nans(value, f"{path}[{key!r}]")]
    if isinstance(found, tuple | list):
        return [p for i, value in enumerate(found) for p in nans(value, f"{path}[{i}]")]
    array = np.asarray(found)
    return [path] if array.dtype.kind == "f" and np.isnan(array).any() else []
