"""Success of a reference model per family of tasks and tools: ``python scripts/evaluate_reference.py FOLDER``."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from reference_play import Corpus, Player, Task

from testbed.envs import arithmetic, world

WORLD_SEED = 7
Family = tuple[str, list[Task], tuple[tuple[str, ...], ...]]
ALL = ("python", "search", "retrieve")


@cache
def _world() -> world.World:
    return world.make_world(WORLD_SEED)


def questions(kind: str, n: int, band: str | None = None) -> list[Task]:
    text_of = dict(_world().documents())
    return [
        Task(question.prompt, question.answer, tuple(text_of[document] for document in question.support))
        for question in _world().questions(kind, n, 1, band)
    ]


def problems_of(operator: str, digits: int, n: int) -> list[Task]:
    return [Task(problem.prompt, problem.answer) for problem in arithmetic.problems(operator, digits, n, 1)]


def _unseen(make: Callable[[random.Random], str], n: int) -> list[world.Fact]:
    """Make up facts with names of another shape; they join the corpus for the evaluation."""
    rng = random.Random(f"unseen {make.__name__}")
    found = []
    for number in range(n):
        noun = rng.choice(list(world.RELATIONS))
        relation = world.RELATIONS[noun]
        found.append(
            world.Fact(
                f"d{900 + number % 100}", noun, make(rng), relation.value(rng) if relation.is_numeric else make(rng)
            )
        )
    return found


def long_name(rng: random.Random) -> str:
    """Draw a name of four or five syllables."""
    return world.make_name(rng, 4, 5)


def longer_name(rng: random.Random) -> str:
    """Draw a name of six or seven syllables: longer than any in training."""
    return world.make_name(rng, 6, 7)


def letters(rng: random.Random) -> str:
    """Draw seven random letters."""
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7)).capitalize()


def unseen_facts(n: int) -> dict[str, list[world.Fact]]:
    """Return facts by the shape of their names."""
    return {make.__name__: _unseen(make, n) for make in (long_name, longer_name, letters)}


def families(n: int) -> Iterable[Family]:
    """Yield (name, tasks, tool sets) of every family, ``n`` tasks each."""
    arms = ((), ("python",), ("search",), ALL)
    for operator, name in (("+", "addition"), ("*", "multiplication")):
        for digits in (1, 2, 3, 4, 7, 8, 9):
            few = arms if digits in (2, 4) else ((), ("python",))
            yield f"{name} {digits} digits", problems_of(operator, digits, n), few
    finders = ((), ("python",), ("search",), ("retrieve",), ALL)
    for band in world.BANDS:
        yield f"known {band}", questions("known", n, band), finders
    yield "document-only", questions("document", n), finders
    yield "two hops", questions("two_hop", n), finders
    yield "sum", questions("sum", n), ((), ("python",), ("search",), ("python", "search"), ("python", "retrieve"), ALL)
    yield "unanswerable", questions("unanswerable", n), finders
    for shape, made in unseen_facts(n).items():
        tasks = [Task(fact.question, fact.value, (fact.text,)) for fact in made]
        yield f"unseen {shape}", tasks, ((), ("search",), ("retrieve",))
    numeric = [fact for fact in _world().document_only if world.RELATIONS[fact.noun].is_numeric]
    sample = random.Random(5).sample(numeric, n)
    yield (
        "document-only numbers",
        [Task(fact.question, fact.value, (fact.text,)) for fact in sample],
        (("search",), ("retrieve",)),
    )


def main(argv: list[str] | None = None) -> None:
    """Evaluate, from the command line: one JSON line per family and tool set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=int, default=30, help="tasks per family, at most 30")
    parser.add_argument("--samples", type=int, default=64, help="attempts per task")
    parser.add_argument("--only", nargs="*", default=[], help="families whose name starts with one of these")
    parser.add_argument("--out", type=Path, help="file for the rows, as JSON")
    options = parser.parse_args(argv)
    made = [fact for shape in unseen_facts(options.tasks).values() for fact in shape]
    corpus = Corpus([*_world().documents(), *((fact.id, fact.text) for fact in made)])
    player = Player(options.folder, corpus)
    rows = []
    for name, tasks, tool_sets in families(options.tasks):
        if options.only and not name.startswith(tuple(options.only)):
            continue
        for offered in tool_sets:
            for inert in (False, True) if offered == ALL else (False,):
                result = player.play(tasks, offered, options.samples, inert=inert)
                row = {"family": name, "tools": " ".join(offered) or "none", "inert": inert, **result}
                rows.append(row)
                print(json.dumps(row), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
