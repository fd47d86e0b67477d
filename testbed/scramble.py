"""What is left of a text that must tell nothing: the placebo of tools of which nothing is known but their answers."""

from __future__ import annotations

import re

import numpy as np

from testbed.results import NO_OUTPUT

_WORD = re.compile(r"\\u[0-9a-fA-F]{4}|\\.|[^\W_]+")  # JSON's escapes are no words
SCRAMBLED = 50_000  # characters of a placebo that are worth scrambling; models are shown fewer


def scrambled(text: str, rng: np.random.Generator) -> str:
    """A text of the same length and layout that tells nothing but those: words and numbers are drawn anew."""
    if text == NO_OUTPUT:
        return text
    body, rest = text[:SCRAMBLED], text[SCRAMBLED:]
    words = [word for word in _WORD.findall(body) if word[0] != "\\"]
    lengths: dict[bool, list[int]] = {
        number: rng.permutation([len(w) for w in words if w.isdecimal() is number]).tolist() for number in (True, False)
    }

    def draw(found: re.Match[str]) -> str:
        if found[0][0] == "\\":
            return f"\\u00e{rng.integers(0, 7)}" if len(found[0]) > 2 else found[0]
        number = found[0].isdecimal()
        letters = rng.integers(0, 10 if number else 26, lengths[number].pop())
        return "".join(("0123456789" if number else "abcdefghijklmnopqrstuvwxyz")[n] for n in letters)

    return _WORD.sub(draw, body) + "x" * len(rest)
