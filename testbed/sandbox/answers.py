"""What a worker answers, checked as strictly as a stranger's.

What no worker of ours would say raises `BrokenProtocol`.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from testbed.sandbox.base import Limits, Result, Status
from testbed.sandbox.link import PIECE, BrokenProtocol

Verdict = Literal["timeout", "oom", "left"]  # left: it has ended, and what it left is being ended


def read_piece(answer: dict[str, Any]) -> tuple[bytes, int]:
    """A piece of a file, and how long the file is."""
    parts, length = answer["parts"], answer.get("length")
    if len(parts) != 1 or not isinstance(length, int) or len(parts[0]) > PIECE:
        raise BrokenProtocol("a malformed piece of a file")
    return parts[0], length


def read_verdict(value: Any) -> Verdict:
    """What the worker says has become of a program, ahead of its answer."""
    if value not in ("timeout", "oom", "left"):
        raise BrokenProtocol(f"an unknown verdict {value!r}")
    verdict: Verdict = value
    return verdict


def read_answer(answer: dict[str, Any], seconds: float, limits: Limits, began: float) -> Result:
    """Checks a result frame as strictly as a stranger's."""
    verdict, code = answer.get("verdict"), answer.get("exit_code")
    parts, cuts = answer["parts"], (answer.get("stdout_cut"), answer.get("stderr_cut"))
    if len(parts) != 4 or not all(isinstance(cut, int) and cut >= 0 for cut in cuts):
        raise BrokenProtocol("a malformed result")
    if (verdict == "exited") != isinstance(code, int):
        raise BrokenProtocol("a result without an exit code")
    status, reason = how_it_ended(verdict, code, answer.get("cpu_limit") is True, seconds, limits)
    return Result(
        status=status,
        exit_code=code if status in ("ok", "error", "killed") else None,
        stdout=_text(parts[0], parts[1], int(cuts[0] or 0)),
        stderr=_text(parts[2], parts[3], int(cuts[1] or 0)),
        stdout_truncated=int(cuts[0] or 0),
        stderr_truncated=int(cuts[1] or 0),
        milliseconds=1000 * (time.perf_counter() - began),
        reason=reason,
        state_lost=answer.get("state_lost") is True,
    )


def _text(head: bytes, tail: bytes, cut: int) -> str:
    """What a program wrote, with a line in place of what is missing."""
    if not cut:
        return _decode(head + tail)
    return f"{_decode(head)}\n[... {cut} bytes cut ...]\n{_decode(tail)}"


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def how_it_ended(verdict: Any, code: Any, cpu_limit: bool, seconds: float, limits: Limits) -> tuple[Status, str]:
    """How a program ended, and why in words."""
    if verdict == "timeout":
        return "timeout", f"stopped after {seconds:g} s"
    if verdict == "oom":
        return "oom", too_much_memory(limits)
    if verdict != "exited":
        raise BrokenProtocol(f"an unknown verdict {verdict!r}")
    if cpu_limit:
        return "timeout", f"stopped after more than {seconds:g} s of CPU time in one process"
    if code < 0:
        return "killed", f"ended by signal {-code}"
    return ("ok", "") if code == 0 else ("error", "")


def too_much_memory(limits: Limits) -> str:
    """The reason of a call that ran out of memory."""
    return f"stopped for using more than {limits.memory_mib} MiB of memory"
