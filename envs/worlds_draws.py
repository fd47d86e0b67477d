"""Random numbers by address, and random orders of any length: what `testbed.envs.worlds_model` makes worlds of.

A number depends on the key and its address alone, never on what was drawn before. So any part of a world can be made
without the others, in any order, in no memory.
"""

from __future__ import annotations

from hashlib import blake2b
from math import isqrt

_MASK = (1 << 64) - 1
_ROUNDS = 2  # of two half-rounds each; names and orders need to look random, not to withstand an attack


class Draws:
    """Whole numbers drawn for one address, in a fixed order.

    Holds 512 random bits. Drawing below n takes log2(n) of them, and the last 64 keep the draws uniform: enough for
    some 30 draws of numbers below 10,000.

    Args:
        key: 1 to 64 bytes.
        address: what the numbers are for; equal addresses have equal numbers.
    """

    __slots__ = ("_bits",)

    def __init__(self, key: bytes, *address: str | int) -> None:
        self._bits = int.from_bytes(blake2b(repr(address).encode(), key=key).digest(), "little")

    def below(self, n: int) -> int:
        """A number from 0 to n − 1."""
        self._bits, drawn = divmod(self._bits, n)
        return drawn


class Permutation:
    """A random order of the numbers from 0 to n − 1: which stands at a place, and at which place one stands.

    Both take a constant time and no memory: a Feistel network over a rectangle of at least n fields, walked until it
    leads back to one of the n (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").

    Args:
        key: 1 to 64 bytes.
        name: which of the key's orders.
        n: how many numbers, at least 1.
    """

    __slots__ = ("_columns", "_keys", "_n", "_rows")

    def __init__(self, key: bytes, name: str, n: int) -> None:
        self._n = n
        self._rows = isqrt(n - 1) + 1
        self._columns = -(-n // self._rows)
        draws = Draws(key, "permutation", name)
        self._keys = tuple((draws.below(1 << 60), draws.below(1 << 60)) for _ in range(_ROUNDS))

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, place: int) -> int:
        """The number at a place from 0 to n − 1."""
        while True:
            row, column = divmod(place, self._columns)
            for one, two in self._keys:
                row = (row + _mix(column ^ one)) % self._rows
                column = (column + _mix(row ^ two)) % self._columns
            place = row * self._columns + column
            if place < self._n:
                return place

    def index(self, number: int) -> int:
        """The place of a number from 0 to n − 1."""
        while True:
            row, column = divmod(number, self._columns)
            for one, two in reversed(self._keys):
                column = (column - _mix(row ^ two)) % self._columns
                row = (row - _mix(column ^ one)) % self._rows
            number = row * self._columns + column
            if number < self._n:
                return number


def _mix(value: int) -> int:
    """32 bits that depend on all bits of a value (the multipliers are those of splitmix64)."""
    value = (value ^ value >> 31) * 0xBF58476D1CE4E5B9 & _MASK
    return (value ^ value >> 27) * 0x94D049BB133111EB >> 32 & 0xFFFFFFFF
