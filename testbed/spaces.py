"""A Gymnasium space of real text: `gymnasium.spaces.Text` has an ASCII-like charset and no empty string."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

# Sampled from: letters of several scripts, digits, markup and an astral character, so that random agents try what
# models write.
_ALPHABET = "abcXYZ 0123456789<>/{}[]\"':,.\n\tàéßñжшΩ漢字あ한🙂"


class Utf8(gym.Space[str]):
    """All Python strings that can be encoded as UTF-8, up to a length.

    Args:
        max_length: longest string in characters; at least 0.
        seed: seed of `sample`.
    """

    def __init__(self, max_length: int = 1 << 20, seed: int | np.random.Generator | None = None) -> None:
        if max_length < 0:
            raise ValueError(f"max_length must be at least 0, not {max_length}")
        self.max_length = max_length
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no fixed size."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """A random string of up to 32 characters; masks are not supported."""
        if mask is not None or probability is not None:
            raise ValueError("Utf8.sample supports neither mask nor probability")
        length = int(self.np_random.integers(0, min(32, self.max_length) + 1))
        return "".join(_ALPHABET[i] for i in self.np_random.integers(0, len(_ALPHABET), size=length))

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string that UTF-8 can hold (no lone surrogates) and is not too long."""
        if not isinstance(x, str) or len(x) > self.max_length:
            return False
        try:
            x.encode("utf-8")
        except UnicodeEncodeError:
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Utf8) and other.max_length == self.max_length

    def __hash__(self) -> int:
        return hash((Utf8, self.max_length))

    def __repr__(self) -> str:
        return f"Utf8({self.max_length})"
