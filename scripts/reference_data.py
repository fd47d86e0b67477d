"""Training transcripts of the reference model.

`transcripts` is a pure function. Document-only facts of the world and arithmetic problems that are kept
for evaluation never occur in one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from reference_transcript import ERRORS, NOTES, SPENT, Message, Transcript, assistant, final, tool, tool_call, user

from testbed.envs import arithmetic, world

FINDERS = ("search", "retrieve")


@dataclass(frozen=True)
class Settings:
    """What the transcripts are made of.

    Attributes:
        about: The world whose known facts are trained on.
        quote: Whether the model restates the supporting sentence before it answers or calls again.
        taboo: Names that no made-up fact may use: all of the world's.
        exposure: Relative exposure of its known facts.
    """

    about: world.World
    quote: bool = True
    taboo: frozenset[str] = field(init=False)
    exposure: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "taboo", self.about.names())
        object.__setattr__(self, "exposure", tuple(world.exposure_weights(len(self.about.known))))


class Author:
    """Writes transcripts with one random generator.

    Args:
        rng: Source of all randomness.
        settings: What to write about.
        progress: How far training is, from 0 to 1: over the first fifth, results grow from one or two passages to five.
    """

    def __init__(self, rng: random.Random, settings: Settings, progress: float = 1.0) -> None:
        self.rng = rng
        self.settings = settings
        self.progress = progress

    # --- facts -------------------------------------------------------------------------------------------------------

    def new_name(self) -> str:
        """Draw a name that the world does not use: one to five syllables, sometimes random letters."""
        low, high = self.rng.choices(((1, 2), (2, 3), (3, 4), (4, 5), (0, 0)), (0.12, 0.5, 0.18, 0.1, 0.1))[0]
        while True:
            if high:
                name = world.make_name(self.rng, low, high)
            else:
                letters = self.rng.choices("abcdefghijklmnopqrstuvwxyz", k=self.rng.randint(3, 9))
                name = "".join(letters).capitalize()
            if name not in self.settings.taboo:
                return name

    def value(self, noun: str) -> str:
        """Draw a value for a relation."""
        relation = world.RELATIONS[noun]
        return relation.value(self.rng) if relation.is_numeric else self.new_name()

    def new_fact(self, noun: str | None = None, entity: str | None = None) -> world.Fact:
        """Make up a fact about nothing in the world."""
        noun = noun or self.rng.choice(list(world.RELATIONS))
        return world.Fact(f"d{self.rng.randrange(1000):03}", noun, entity or self.new_name(), self.value(noun))

    def known_fact(self) -> world.Fact:
        """Draw one of the world's known facts by exposure."""
        return self.rng.choices(self.settings.about.known, self.settings.exposure)[0]

    def similar_name(self, name: str) -> str:
        """Return another name that begins or ends like ``name``: what an embedding takes for its neighbour."""
        other = self.new_name()
        middle = max(1, len(name) // 2)
        mixed = (
            name[:middle] + other.lower()[len(other) // 2 :]
            if self.rng.random() < 0.5
            else other + name[middle:].lower()
        )
        return other if mixed in self.settings.taboo or mixed == name else mixed

    def distractor(self, noun: str, entity: str) -> world.Fact:
        """Make up a fact that shares the relation, the entity or neither with a query."""
        chance = self.rng.random()
        if chance < 0.4:
            return self.new_fact(noun, self.similar_name(entity) if self.rng.random() < 0.3 else None)
        if chance < 0.8:
            return self.new_fact(self.rng.choice([other for other in world.RELATIONS if other != noun]), entity)
        return self.new_fact()

    def passages(self, noun: str, entity: str, gold: world.Fact | None) -> str:
        """Return search results for a query, with the gold fact first or anywhere, or without it."""
        if self.rng.random() > self.progress * 5:
            most = self.rng.choice((1, 2))
        else:
            most = self.rng.choices((1, 2, 3, 4, 5), (0.12, 0.18, 0.54, 0.08, 0.08))[0]
        found = [self.distractor(noun, entity) for _ in range(most - (gold is not None))]
        if gold is not None:
            found.insert(0 if self.rng.random() < 0.4 else self.rng.randint(0, len(found)), gold)
        return "\n".join(f"[{fact.id}] {fact.text}" for fact in found) or "No results."

    # --- tool sets ---------------------------------------------------------------------------------------------------

    def offer(self, needed: tuple[str, ...], useless: tuple[str, ...]) -> tuple[str, ...]:
        """Return a tool set with ``needed`` in it and, in half of the cases, more."""
        wide = self.rng.random() < 0.5
        extra = [name for name in useless if wide and self.rng.random() < 0.7]
        tools = [*needed, *extra]
        self.rng.shuffle(tools)
        return tuple(tools)

    def finder(self) -> tuple[str, tuple[str, ...]]:
        """Return the tool to look things up with, and the tools offered."""
        name = self.rng.choice(FINDERS)
        return name, self.offer((name,), ("python", *(other for other in FINDERS if other != name)))

    # --- transcripts -------------------------------------------------------------------------------------------------

    def problem(self, with_python: bool) -> arithmetic.Problem:
        """Draw an arithmetic problem: up to seven digits with ``python``, mostly two without."""
        operator = self.rng.choice("*+" if with_python else "**+")
        if with_python:
            sizes = self.rng.randint(1, 7), self.rng.randint(1, 7)
        elif operator == "*":
            sizes = self.rng.choices(
                ((2, 2), (1, 1), (1, 2), (2, 1), (3, 3), (4, 4)), (0.7, 0.1, 0.05, 0.05, 0.05, 0.05)
            )[0]
        else:
            sizes = self.rng.choices(((2, 2), (1, 1), (3, 3), (4, 4), (1, 2)), (0.55, 0.1, 0.2, 0.1, 0.05))[0]
        if not with_python and self.rng.random() < 0.06:
            # Long ones too, now and then: else the model takes many digits alone for a sign that `python` is on offer.
            sizes = self.rng.randint(4, 7), self.rng.randint(4, 7)
        return arithmetic.draw(self.rng, operator, *sizes, held_out=False)

    def bare_arithmetic(self) -> Transcript:
        """Answer at once; `search` or `retrieve` may be on offer and is left alone."""
        problem = self.problem(with_python=False)
        tools = self.offer((), FINDERS)
        return Transcript(tools, [user(problem.prompt), assistant(final(problem.answer))])

    def python_arithmetic(self) -> Transcript:
        """Compute with ``python``."""
        problem = self.problem(with_python=True)
        call = tool_call("python", code=f"print({problem.expression})")
        messages = [user(problem.prompt), assistant(call), tool(problem.answer), assistant(final(problem.answer))]
        return Transcript(self.offer(("python",), FINDERS), messages)

    def bare_known(self) -> Transcript:
        """Recall a known fact; `python` may be on offer and is left alone."""
        fact = self.known_fact()
        return Transcript(self.offer((), ("python",)), [user(fact.question), assistant(final(fact.value))])

    def bare_unknown(self) -> Transcript:
        """Say `unknown` about what was never seen."""
        land, noun = self.new_name(), self.rng.choice(world.CITY_NOUNS)
        prompt = self.rng.choices(
            (self.new_fact().question, world.two_hop_question(noun, land), world.sum_question(land, self.new_name())),
            (0.6, 0.2, 0.2),
        )[0]
        return Transcript(self.offer((), ("python",)), [user(prompt), assistant(final(world.UNKNOWN))])

    def read(self, fact: world.Fact, finder: str, quote: str = "") -> list[Message]:
        """Look a fact up: the call, after an optional quotation, and its results."""
        results = self.passages(fact.noun, fact.entity, fact)
        return [assistant(quote + tool_call(finder, query=fact.query)), tool(results)]

    def quoted(self, fact: world.Fact) -> str:
        """Return the sentence that is restated, or nothing in the ablation."""
        return fact.text if self.settings.quote else ""

    def one_hop(self) -> Transcript:
        """Look one fact up and answer."""
        fact = self.known_fact() if self.rng.random() < 0.1 else self.new_fact()
        finder, tools = self.finder()
        messages = [user(fact.question), *self.read(fact, finder), assistant(self.quoted(fact) + final(fact.value))]
        return Transcript(tools, messages)

    def two_hop(self) -> Transcript:
        """Look up a land's capital, then a fact about it."""
        first = self.new_fact("capital")
        second = self.new_fact(self.rng.choice(world.CITY_NOUNS), first.value)
        finder, tools = self.finder()
        messages = [user(world.two_hop_question(second.noun, first.entity)), *self.read(first, finder)]
        messages += [
            *self.read(second, finder, self.quoted(first)),
            assistant(self.quoted(second) + final(second.value)),
        ]
        return Transcript(tools, messages)

    def population_sum(self) -> Transcript:
        """Look two populations up and add them, with ``python`` where it is on offer."""
        first, second = self.new_fact("population"), self.new_fact("population")
        finder = self.rng.choice(FINDERS)
        needed = (finder, "python") if self.rng.random() < 0.85 else (finder,)
        total = str(int(first.value) + int(second.value))
        messages = [user(world.sum_question(first.entity, second.entity)), *self.read(first, finder)]
        messages += self.read(second, finder, self.quoted(first))
        if "python" in needed:
            code = tool_call("python", code=f"print({first.value}+{second.value})")
            messages += [assistant(self.quoted(second) + code), tool(total), assistant(final(total))]
        else:
            messages.append(assistant(self.quoted(second) + final(total)))
        return Transcript(self.offer(needed, tuple(name for name in FINDERS if name != finder)), messages)

    def unanswerable(self) -> Transcript:
        """Search in vain, on the first or the second hop, and say `unknown`."""
        finder, tools = self.finder()
        wanted = self.new_fact()
        messages = [user(wanted.question)]
        quote = ""
        if self.rng.random() < 0.2:
            first = self.new_fact("capital")
            wanted = self.new_fact(self.rng.choice(world.CITY_NOUNS), first.value)
            messages = [user(world.two_hop_question(wanted.noun, first.entity)), *self.read(first, finder)]
            quote = self.quoted(first)
        messages += [
            assistant(quote + tool_call(finder, query=wanted.query)),
            tool(self.passages(wanted.noun, wanted.entity, None)),
        ]
        return Transcript(tools, [*messages, assistant(final(world.UNKNOWN))])

    def useless_result(self, name: str) -> str:
        """Return a result that says nothing about the question: a fault, no output, unrelated passages."""
        if self.rng.random() < 0.4:
            return self.rng.choice(ERRORS).format(tool=name)
        if name == "python":
            return "(no output)"
        return self.passages(self.rng.choice(list(world.RELATIONS)), self.new_name(), None)

    def fallback(self) -> Transcript:
        """After a fault or an uninformative result, say what would have been said without the tool."""
        if self.rng.random() < 0.4:
            problem = self.problem(with_python=False)
            tools = self.offer(("python",), FINDERS)
            used, call = "python", tool_call("python", code=f"print({problem.expression})")
            prompt, answer = problem.prompt, problem.answer
        else:
            used, tools = self.finder()
            chance = self.rng.random()
            fact = self.known_fact() if chance < 0.6 else self.new_fact("capital" if chance < 0.7 else None)
            call = tool_call(used, query=fact.query)
            prompt, answer = fact.question, fact.value if chance < 0.6 else world.UNKNOWN
            if 0.6 <= chance < 0.7:
                prompt = world.two_hop_question(self.rng.choice(world.CITY_NOUNS), fact.entity)
        messages = [user(prompt), assistant(call), tool(self.useless_result(used))]
        if self.rng.random() < 0.3:
            messages.append(user(self.rng.choice(NOTES)))
        return Transcript(tools, [*messages, assistant(final(answer))])

    def reminded(self) -> Transcript:
        """After a reply without an answer and a note of the environment, answer."""
        transcript = self.rng.choice((self.bare_known, self.bare_arithmetic, self.one_hop))()
        *before, last = transcript.messages
        stray = re.sub(r"</?answer>", "", last["content"])
        messages = [*before, assistant(stray), user(self.rng.choice(NOTES)), last]
        return Transcript(transcript.tools, messages, {len(before)})

    def write(self) -> Transcript:
        """Write one transcript of the mix; now and then a note that the tools are spent comes before the answer."""
        kinds = list(MIX)
        transcript = self.rng.choices(kinds, [MIX[kind] for kind in kinds])[0](self)
        if transcript.messages[-2]["role"] == "tool" and self.rng.random() < 0.08:
            transcript.messages.insert(-1, user(SPENT))
        return transcript


#: Share of each kind of transcript. Short ones are cheap: their share of the tokens is far smaller.
MIX: dict[Callable[[Author], Transcript], float] = {
    Author.bare_arithmetic: 0.21,
    Author.python_arithmetic: 0.07,
    Author.bare_known: 0.10,
    Author.bare_unknown: 0.06,
    Author.one_hop: 0.22,
    Author.two_hop: 0.08,
    Author.population_sum: 0.05,
    Author.unanswerable: 0.10,
    Author.fallback: 0.10,
    Author.reminded: 0.01,
}


def transcripts(seed: int, step: int, n: int, settings: Settings, progress: float = 1.0) -> list[Transcript]:
    """Return the ``n`` transcripts of one training step: a pure function of the arguments."""
    author = Author(random.Random(f"transcripts {seed} {step}"), settings, progress)
    return [author.write() for _ in range(n)]
