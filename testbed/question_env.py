"""Environments of questions with short answers, compared as SQuAD's evaluation script does."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, ClassVar

from testbed.env import Environment
from testbed.types import Grade, Task

GRADER = "squad-em/1"
INSTRUCTION = "Answer in as few words as possible."
LONGEST = 1_000  # characters of an answer that is still compared: no short answer is longer

# A sign before or after a dollar sign; whole digits or groups of three; decimals; a full stop at the end.
_NUMBER = re.compile(
    r"(?P<sign>[-+\u2212]?)\s?\$?\s?(?P<inner>[-\u2212]?)(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?P<part>\.[0-9]+)?\.?"
)
_LONGEST_NUMBER = 100  # characters of an answer that is still read as a number

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WHOLE = frozenset({"yes", "no", "noanswer"})  # for HotpotQA, no word of these is worth partial credit


class QuestionEnvironment(Environment):
    """Base of environments whose answers are a few words.

    An answer is right if it equals one of the references after SQuAD's normalisation; the greatest token F1 over the
    references is its score.
    """

    instruction: ClassVar[str] = INSTRUCTION

    def question(self, text: str, answers: Sequence[str], meta: dict[str, Any]) -> Task:
        """A task: a question, its references (at least one), and labels."""
        return self.task(f"{text.strip()}\n{self.instruction}", list(answers), grader=GRADER, meta=meta)

    def grade(self, task: Task, answer: str) -> Grade:
        """Exact match after normalisation; the token F1 is the score."""
        if len(answer) > LONGEST:
            return Grade(False, score=0.0, detail="too long to be a short answer")
        right = any(exact_match(answer, reference) for reference in task.reference)
        return Grade(right, score=1.0 if right else max(token_f1(answer, reference) for reference in task.reference))

    def reference_answer(self, task: Task) -> str:
        """The first of the references."""
        return str(task.reference[0])

    def near_misses(self, task: Task) -> Iterable[str]:
        """The answer in a sentence, cut, lengthened, and beside another one."""
        right = normalise(task.reference[0])
        candidates = [f"it is {right}", f"{right} or not", f"{right}x", f"not {right}", task.prompt]
        if len(right) > 1:
            candidates.append(right[:-1])
        return [text for text in candidates if not any(normalise(text) == normalise(r) for r in task.reference)]


def normalise(text: str) -> str:
    """A text as SQuAD's evaluation compares it: lower case, no ASCII punctuation, no articles, single spaces.

    Source: Rajpurkar et al. 2016, arXiv 1606.05250, the official evaluation script (version 1.1), `normalize_answer`.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> bool:
    """Whether both are the same after normalisation.

    What normalises to nothing ("The", "!") must be the same as written: else any other nothing would match it.
    """
    normal = normalise(answer)
    if not normal:
        return bool(answer.strip()) and answer.strip() == reference.strip()
    return normal == normalise(reference)


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of the shares of tokens in common, in [0, 1]; 0 where yes or no meets anything else.

    Source: SQuAD's script as above; the rule on yes and no is HotpotQA's (Yang et al. 2018, arXiv 1809.09600).
    """
    said, wanted = normalise(answer), normalise(reference)
    if said != wanted and (said in _WHOLE or wanted in _WHOLE):
        return 0.0
    common = sum((Counter(said.split()) & Counter(wanted.split())).values())
    if not common:
        return 0.0
    return 2 * common / (len(said.split()) + len(wanted.split()))


def read_number(text: str) -> Decimal | None:
    """The one number that a text is, or None.

    Examples: "18", " $1,234.50 ", "-$3", "$-3", "70000.", "+2.0"; not "18 dollars", "1,23", "1e3", "12 or 13", "½".
    """
    text = text.strip()
    found = _NUMBER.fullmatch(text) if len(text) <= _LONGEST_NUMBER else None
    if found is None or (found["sign"] and found["inner"]):
        return None
    value = Decimal(found["whole"].replace(",", "") + (found["part"] or ""))
    return -value if found["sign"] in ("-", "\u2212") or found["inner"] else value
