"""Keys of hosted models that are to score: they are asked for before anything is scored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_models import has_reference
from testbed.errors import UsageError
from testbed.experiment_file import parse_experiment
from testbed.models import make_model
from testbed.models.scripted import Scripted
from testbed.runner import Runner
from testbed.scoring import Scoring
from testbed.store import MessageScore, ScorerRecord, Store

pytestmark = [has_reference, pytest.mark.usefixtures("keyless")]
EXPERIMENT: dict[str, Any] = {
    "samples": 3,
    "model": {"id": "reference", "max_tokens": 16},
    "env": [{"id": "Addition-v0", "tasks": 3}],
}


class Hosted(Scripted):
    """Wrote what a hosted model is recorded to have written."""

    def fingerprint(self) -> Mapping[str, Any]:
        return make_model("chat:openai:x").fingerprint()


@pytest.fixture
def keyless(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
async def mixed(tmp_path: Path) -> AsyncIterator[Store]:
    """A store with a run of a local arm and two hosted ones."""
    hosted = {"model": {"id": "chat:openai:x"}}
    arms = [{"name": "local"}, {"name": "one", **hosted}, {"name": "two", **hosted, "budget": {"turns": 3}}]
    data = {**EXPERIMENT, "name": "mixed", "arm": arms}
    with Store.open(tmp_path / "mixed.sqlite") as store:
        await Runner(parse_experiment(data), store, models={"chat:openai:x": Hosted(["<answer>1</answer>"])}).run()
        yield store


async def test_a_missing_key_is_told_of_all_arms_that_need_it_before_anything_is_scored(mixed: Store) -> None:
    scored = Scoring(mixed, "mixed")
    with pytest.raises(UsageError, match=r"arms 'one', 'two': .* has no API key: set OPENAI_API_KEY.*--arm NAME"):
        await scored.run()
    assert not mixed.scores.scorers("mixed")
    assert [each.total for each in scored.arms] == [0, 0, 0]  # of which no progress is shown
    (local,) = await Scoring(mixed, "mixed", arm="local").run()
    assert (local.done, local.total) == (9, 9)


async def test_arms_that_have_all_their_scores_need_no_key(mixed: Store) -> None:
    scorer = ScorerRecord("chat:openai:x", json.loads(json.dumps(dict(make_model("chat:openai:x").fingerprint()))))
    for arm in ("one", "two"):
        rows = [MessageScore(a.id, 1, "assistant", 3, 2.0) for a in mixed.attempts("mixed", arm=arm)]
        mixed.scores.add(scorer, rows)
    found = await Scoring(mixed, "mixed").run()
    assert [(each.before, each.done, each.refused) for each in found] == [(0, 9, ""), (9, 9, ""), (9, 9, "")]


async def test_a_variable_that_is_to_have_the_key_is_told_likewise(tmp_path: Path) -> None:
    named = {"id": "chat:openai:x", "api_key_env": "NO_SUCH_KEY"}
    arms = [{"name": "one", "model": named}, {"name": "two", "model": named, "budget": {"turns": 3}}]
    data = {**EXPERIMENT, "name": "named", "arm": arms}
    with Store.open(tmp_path / "named.sqlite") as store:
        await Runner(parse_experiment(data), store, models={"chat:openai:x": Hosted(["<answer>1</answer>"])}).run()
        with pytest.raises(UsageError, match=r"arms 'one', 'two': .* variable NO_SUCH_KEY is not set"):
            await Scoring(store, "named").run()
