"""What reasoning-gym's graders lack: which answers are safe to hand to them, and where full marks are not enough."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from testbed.expressions import parsed

Entry = Mapping[str, Any]  # "question", "answer" and "metadata", as the library makes them

# -- answers that the library would evaluate --------------------------------------------------------------------------

_FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt", "Abs")
)
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.USub, ast.UAdd)
_MOST_NODES = 400
_MOST_BITS = 10_000  # of any whole number that comes up: towers of powers would take all time and memory there are


def is_formula(text: str) -> bool:
    """Whether a text is a harmless formula: numbers, one-letter symbols, known functions, arithmetic, no huge power."""
    tree = _parse(text) if has_small_exponents(text) else None
    if tree is None or sum(1 for _ in ast.walk(tree)) > _MOST_NODES:
        return False
    try:
        return _bits(tree.body) <= _MOST_BITS
    except _NotAFormula:
        return False


def has_small_exponents(text: str) -> bool:
    """Whether no number has an exponent of more than three digits, which exact arithmetic would write out."""
    return re.search(r"[eE][-+]?[0-9_]{4}", text) is None


def is_list(text: str) -> bool:
    """Whether a text is words without punctuation, or a literal such as a list."""
    if re.fullmatch(r"[\w\s]*", text):
        return True
    try:
        ast.literal_eval(parsed(text.strip()))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
    return True


class _NotAFormula(Exception):
    pass


def _parse(text: str) -> ast.Expression | None:
    try:
        return parsed(text.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _bits(node: ast.expr) -> float:
    """An upper bound on the bits of a formula's whole numbers; symbols count one."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return max(1, abs(value).bit_length()) if isinstance(value, int) else 64
        case ast.Name(id=name) if len(name) == 1 or name == "pi":
            return 1
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            return _bits(argument)
        case ast.UnaryOp(op=op, operand=operand) if isinstance(op, _OPERATORS):
            return _bits(operand)
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            size = _bits(exponent)
            return _bits(base) * 2**size if size <= 14 else _MOST_BITS + 1
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _OPERATORS):
            return _bits(left) + _bits(right) + 1
    raise _NotAFormula


ADMITS: Mapping[str, Callable[[str], bool]] = {
    **dict.fromkeys(
        ("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"),
        is_formula,
    ),
    "coin_flip": has_small_exponents,
    **dict.fromkeys(("binary_matrix", "n_queens", "spiral_matrix", "string_insertion"), is_list),
}


# -- graders of the library that are not strict -----------------------------------------------------------------------


def _same_text(answer: str, entry: Entry) -> bool:
    return answer.strip().casefold() == str(entry["answer"]).strip().casefold()


def _same_number(answer: str, entry: Entry) -> bool:
    plain = re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?", answer.strip())
    return plain is not None and Decimal(plain.group()) == Decimal(entry["answer"])


def _close_ratio(answer: str, entry: Entry) -> bool:
    value, truth = Fraction(answer.strip().replace(",", "")), Fraction(entry["answer"])
    return abs(value - truth) <= abs(truth) / 1_000


def _is_number(answer: str, entry: Entry) -> bool:
    return "nan" not in answer.casefold()


def _same_numbers(answer: str, entry: Entry) -> bool:
    return numbers_in(answer) == numbers_in(str(entry["answer"]))


def _same_days(answer: str, entry: Entry) -> bool:
    return "day" not in str(entry["answer"]) or _same_numbers(answer, entry)


def _as_many_words(answer: str, entry: Entry) -> bool:
    return len(answer.split(",")) == len(entry["metadata"]["sorted_words"])


def _reaches(target: int, answer: str, entry: Entry) -> bool:
    used, tree = numbers_in(answer), _parse(answer)
    return tree is not None and sorted(used) == sorted(entry["metadata"]["numbers"]) and _value(tree.body) == target


def numbers_in(formula: str) -> list[int]:
    """The whole numbers in a formula, in its order."""
    return [int(digits) for digits in re.findall(r"[0-9]+", formula)]


def _value(node: ast.expr) -> Fraction | None:
    """The exact value of arithmetic on whole numbers; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp):
        inner = _value(node.operand)
        return inner if inner is None or isinstance(node.op, ast.UAdd) else -inner
    if not isinstance(node, ast.BinOp):
        return None
    left, right = _value(node.left), _value(node.right)
    if left is None or right is None or (isinstance(node.op, ast.Div) and not right):
        return None
    return {
        ast.Add: lambda: left + right,
        ast.Sub: lambda: left - right,
        ast.Mult: lambda: left * right,
        ast.Div: lambda: left / right,
    }.get(type(node.op), lambda: None)()


STRICTER: Mapping[str, Callable[[str, Entry], bool]] = {
    "coin_flip": _close_ratio,  # the library allows .0001 either way, so 0 passes for any small probability
    "complex_arithmetic": _is_number,  # ... takes what is no number (nan) for no distance
    "countdown": lambda answer, entry: _reaches(
        entry["metadata"]["target"], answer, entry
    ),  # ... allows one part in 100,000
    "fraction_simplification": _same_numbers,  # ... reads the first fraction and no further
    "game_of_life_halting": _same_text,  # ... compares truth values of texts, and every text is true
    "gsm_symbolic": _same_number,  # ... takes the first number in the text, without its sign
    "puzzle24": lambda answer, entry: _reaches(
        24, answer, entry
    ),  # ... takes any four numbers, and cuts decimals off the result
    "time_intervals": _same_days,  # ... reads the first number of days and no further
    "word_sorting": _as_many_words,  # ... does not mind words after the last
}
