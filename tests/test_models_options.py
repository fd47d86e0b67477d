"""Options of a model: those of every one, and those of its adapter."""

from __future__ import annotations

import pytest

from testbed.errors import UnknownName
from testbed.models import GENERAL, make_model
from testbed.models.base import Sampling


def test_a_misspelled_key_of_any_model_is_recognised() -> None:
    with pytest.raises(UnknownName, match="option of model 'scripted': 'temprature'. Did you mean 'temperature'"):
        make_model("scripted", {"temprature": 1.0})
    assert set(GENERAL) == {"id", *Sampling().as_dict()}
