from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed import errors
from testbed.errors import (
    ContextFull,
    ExperimentError,
    FaultKind,
    InfrastructureError,
    TestbedError,
    ToolFault,
    UnknownName,
    UsageError,
    did_you_mean,
    unwritable,
)

ALL = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, TestbedError)]


def test_unknown_name_offers_the_nearest_whatever_the_case() -> None:
    error = UnknownName("tool", "SERACH", ["search", "python"])
    assert str(error) == "unknown tool 'SERACH'. Did you mean 'search'?"
    assert error.exit_code == 2


def test_a_name_that_something_named_does_not_have_is_told_with_it() -> None:
    error = UnknownName("arm", "pyton", ["bare", "python"], hint="See the list.", of="run 'demo'")
    assert str(error) == "run 'demo' has no arm 'pyton'. Did you mean 'python'? See the list."
    assert str(UnknownName(error)) == str(error)


def test_unknown_name_lists_what_there_is_when_nothing_is_near() -> None:
    assert "There are: python, search." in str(UnknownName("tool", "zzzz", ["search", "python"]))


def test_unknown_name_says_when_there_is_none() -> None:
    assert str(UnknownName("run", "x", [], hint="Begin one.")).endswith("There is none. Begin one.")


def test_a_long_list_of_names_is_cut_and_counted() -> None:
    text = did_you_mean("zzzz", [f"name{i:03}" for i in range(40)])
    assert "(40 in all)" in text
    assert "name012" not in text


def test_a_megabyte_for_a_name_neither_takes_time_nor_fills_the_message() -> None:
    start = time.process_time()
    error = UnknownName("tool", "search" * 200_000, ["search", "python"])
    assert time.process_time() - start < 0.1
    assert len(str(error)) < 300


def test_what_lies_in_the_way_of_a_file_is_named_and_else_the_folder_that_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "there").mkdir()
    for place, remedy in (
        ("file", "; {}/file is a file: give another path"),
        ("file/deeper", "; {}/file is a file: give another path"),
        ("link", "; {}/link is a link that leads nowhere: give another path"),
        ("none/deeper", "; make the folder {}/none/deeper first"),
        ("there", ""),
    ):
        path = tmp_path / place / "out.csv"
        assert str(unwritable(path, "why")) == f"{path} cannot be written: why{remedy.format(tmp_path)}."


@given(st.text(), st.lists(st.text(), max_size=5))
def test_did_you_mean_takes_any_text(name: str, known: list[str]) -> None:
    assert did_you_mean(name, known).startswith(" ")


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"path": "e.toml", "line": 3}, "e.toml:3: bad"), ({"path": "e.toml"}, "e.toml: bad"), ({}, "bad")],
)
def test_experiment_error_says_where(given: dict[str, object], expected: str) -> None:
    assert str(ExperimentError("bad", **given)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        UnknownName("tool", "serach", ["search"], hint="See the list."),
        UnknownName("arm", "pyton", ["python"], of="run 'demo'"),
        ToolFault(FaultKind.TIMEOUT, "too long"),
        ExperimentError("bad", path="e.toml", line=3),
        errors.TransportError("gone"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_survive_the_way_between_processes(error: TestbedError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_every_error_is_the_callers_the_models_or_ours() -> None:
    kinds = (UsageError, ToolFault, InfrastructureError, ContextFull)
    assert all(issubclass(c, kinds) for c in ALL if c is not TestbedError)
    assert not any(sum(issubclass(c, k) for k in kinds) > 1 for c in ALL)


def test_infrastructure_faults_have_names_of_their_own_apart_from_the_models() -> None:
    ours = {c.kind for c in ALL if issubclass(c, InfrastructureError)}
    assert {"transport_error", "sandbox_died", "model_unavailable"} <= ours
    assert ours.isdisjoint(FaultKind)


def test_only_usage_errors_have_exit_code_two() -> None:
    assert all((c.exit_code == 2) is issubclass(c, UsageError) for c in ALL)
