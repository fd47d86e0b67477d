"""The m-bit oracle: exactly so many bits, the same to everybody, and what the report makes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from testbed.errors import UsageError
from testbed.experiment_file import read_experiment
from testbed.protocol import write_answer, write_call
from testbed.registry import make_env
from testbed.report.analyse import analyse_run
from testbed.report.record import Analysis, Effect
from testbed.runner import Runner
from testbed.stats.energy import success_ceiling
from testbed.store import Store

EXPERIMENTS = Path(__file__).parents[1] / "docs" / "experiments"


def told(task: int, text: str, **options: object) -> str:
    env = make_env("Oracle-v0", tools=["ask"], **options)
    env.reset(options={"task": task})
    said = env.step(write_call("ask", {"text": text}))[0]["text"]
    env.close()
    return said


def test_it_tells_the_first_digits_whatever_is_asked_and_however_often() -> None:
    env = make_env("Oracle-v0", digits=[16], told=[5], vaults=3, tools=["ask"])
    for task in env.tasks:
        env.reset(options={"task": task})
        said = {env.step(write_call("ask", {"text": text}))[0]["text"] for text in ("?", "The last digit?", "More!")}
        assert said == {f"The code begins with {task.reference[:5]}."}
    env.close()


def test_what_it_tells_depends_on_no_other_digit() -> None:
    """Codes that begin alike sound alike: the channel carries m bits and not one more."""
    env = make_env("Oracle-v0", digits=[12], told=[3], vaults=400)
    heard: dict[str, set[str]] = {}
    for task in env.tasks:
        game = env.make_game(task)
        assert game is not None
        heard.setdefault(game.act("?"), set()).add(task.reference)
    assert len(heard) == 2**3
    assert all(len(codes) > 20 for codes in heard.values())
    assert not hasattr(env.make_game(env.tasks[0]), "clone")


def test_told_nothing_is_told_nothing() -> None:
    said = {told(task, "?", digits=[8], told=[0], vaults=4) for task in range(4)}
    assert said == {"I tell nothing of the code."}


def test_the_prompt_says_how_much_is_told_and_not_what() -> None:
    env = make_env("Oracle-v0", digits=[16], told=[5], vaults=50)
    for task in env.tasks:
        assert "told its first 5 digits" in task.prompt
        assert task.reference[:8] not in task.prompt


def test_codes_come_from_the_seed_and_numbers_out_of_range_are_refused() -> None:
    codes = [[task.reference for task in make_env("Oracle-v0", seed=seed).tasks] for seed in (1, 1, 2)]
    assert codes[0] == codes[1] != codes[2]
    for wrong in ({"digits": [8], "told": [9]}, {"digits": [61], "told": [1]}, {"digits": [8, 8], "told": [1]}):
        with pytest.raises(UsageError, match="Oracle-v0: give as many numbers told as digits"):
            make_env("Oracle-v0", **wrong)
    for vaults in (0, 100_001):
        with pytest.raises(UsageError, match="Oracle-v0: vaults must be from 1 to 100,000"):
            make_env("Oracle-v0", vaults=vaults)


# -- in the report -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    with pytest.MonkeyPatch.context() as patch, Store.open(tmp_path_factory.mktemp("s") / "s.sqlite") as store:
        patch.chdir(EXPERIMENTS.parents[1])  # its policy is named from there
        experiment = read_experiment(str(EXPERIMENTS / "oracle.toml"))
        asyncio.run(Runner(experiment, store).run())
        return analyse_run(store, experiment.name)


def test_no_arm_passes_its_ceiling_and_asking_attains_it(analysis: Analysis) -> None:
    for told in (2, 8, 10):
        (group,) = [each for each in analysis.groups if each.label == f"{told} of 10 digits told"]
        rates = {arm.arm: arm.pass_1.value for arm in group.arms}
        attempts = next(arm.attempts for arm in group.arms if arm.arm == "ask")
        ceiling = float(success_ceiling(2.0**-10, told))
        error = (ceiling * (1 - ceiling) / attempts) ** 0.5
        assert rates["ask"] == pytest.approx(ceiling, abs=4 * error + 1e-9)
        assert rates["yoked"] == pytest.approx(ceiling, abs=4 * error + 1e-9)
        assert max(rates["bare"], rates["inert"]) < 0.03


def test_enough_bits_create_too_few_show_nothing_and_asking_itself_adds_nothing(analysis: Analysis) -> None:
    groups = {group.label: {e.arm: e for e in group.effects} for group in analysis.groups}
    for arm in ("yoked", "ask"):
        assert Effect.CREATED in groups["10 of 10 digits told"][arm].effects
        assert Effect.CREATED not in groups["2 of 10 digits told"][arm].effects
    assert Effect.CREATED not in groups["10 of 10 digits told"]["inert"].effects
    steps = {rung.meaning: rung.difference.value for rung in analysis.ladder}
    assert steps["information"] > 0.35
    assert steps["interaction"] == pytest.approx(0, abs=0.05)


def test_a_wrong_digit_is_a_wrong_answer() -> None:
    env = make_env("Oracle-v0", vaults=1)
    env.reset(options={"task": 0})
    code = env.tasks[0].reference
    assert env.step(write_answer(code[:-1] + "10"[int(code[-1])]))[1] == 0.0
    env.close()
