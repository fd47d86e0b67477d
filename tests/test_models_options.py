"""Options of a model: those of every one, and those of its adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.errors import ExperimentError, ModelError, UnknownName
from testbed.experiment_file import parse_experiment
from testbed.models import GENERAL, make_model
from testbed.models.base import Sampling


def test_a_misspelled_key_of_any_model_is_recognised() -> None:
    with pytest.raises(UnknownName, match=r"option of model 'scripted': 'temprature'\. Did you mean 'temperature'"):
        make_model("scripted", {"temprature": 1.0})
    assert set(GENERAL) == {"id", *Sampling().as_dict()}


@pytest.mark.parametrize(
    ("id_", "said"),
    [
        ("hff:base", r"unknown model 'hff:base'\..* Perhaps 'hf:base' is meant\."),
        ("base", r"unknown model 'base'\..* The directory 'base' holds a model: write 'hf:base'\."),
    ],
)
def test_an_id_of_no_kind_is_told_with_what_it_may_stand_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, id_: str, said: str
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownName, match=said):
        make_model(id_)
    data = {"name": "x", "model": id_, "env": [{"id": "Addition-v0"}], "arm": [{"name": "bare"}]}
    with pytest.raises(ExperimentError, match=said):
        parse_experiment(data)


@pytest.mark.parametrize("path", ["~nobody-of-this-name/base", "x" * 300])
def test_an_id_that_can_be_no_path_is_refused_by_name(path: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown model '{path[:50]}"):
        make_model(path)
    with pytest.raises(ModelError, match=f"'{path}' cannot be looked for as a model directory: .*\\.$"):
        make_model(f"hf:{path}")
