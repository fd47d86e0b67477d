"""Sends a run to a board: checked here first, in pieces, as often as need be, and then the verdict is waited for."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from testbed.board.board_file import Rules
from testbed.board.bundle import Written, write_bundle
from testbed.board.bundle_lines import ClaimedArm, ClaimedTask, sent_of
from testbed.board.link import Link, address_of
from testbed.board.schema import ACCEPTED
from testbed.board.verify.arms import Asked, check_head, read_arms
from testbed.board.verify.findings import Findings, Reason
from testbed.budget import Budget
from testbed.errors import UsageError
from testbed.remote_client import check_encrypted
from testbed.report.unseen import visible
from testbed.store import Run, Store
from testbed.store.records import differences
from testbed.types import Task


@dataclass(frozen=True)
class Submitted:
    """An entry that was sent.

    Attributes:
        entry: its id.
        page: address of its page.
        state: "waiting" where the verdict did not come in time, else "verified", "partly", "rejected", "replaced" or
            "withdrawn".
        reasons: of the verdict.
    """

    entry: str
    page: str
    state: str
    reasons: tuple[Reason, ...]

    @property
    def accepted(self) -> bool:
        """Whether it is on the board, or may still get there."""
        return self.state in ("waiting", *ACCEPTED)

    def told(self) -> str:
        """The verdict for people."""
        said = {
            "waiting": "not decided yet. Its page will say, and the same command again waits for it",
            "verified": "verified",
            "partly": "partly verified",
            "rejected": "rejected",
            "replaced": "replaced",
            "withdrawn": "withdrawn, which is for good: this run cannot be entered again. One with another arm can",
        }
        marks = {"wrong": "wrong", "unchecked": "not checked", "note": "noted", "ok": "checked"}
        lines = [f"{self.page}: {said.get(self.state, self.state)}"]  # a newer server may know others
        lines += [f"  {marks[reason.level]} ({reason.check}): {reason.text}" for reason in self.reasons]
        return "\n".join(map(visible, lines))


def submit(
    store: Store,
    run: str,
    board: str,
    token: str,
    *,
    title: str = "",
    wait: float = 3600.0,
    say: Callable[[str], object] = print,
    client: httpx.Client | None = None,
    pause: float = 0.5,
) -> Submitted:
    """Sends a run to a board. Sending it again goes on where it was cut, or finds what became of it.

    Args:
        store: where the run is.
        run: its name.
        board: address of the board's page, such as https://example.org/boards/sums.
        token: of scope "submit".
        title: of the entry; the run's name by default.
        wait: seconds to wait for the verdict.
        say: told of every step.
        client: sends the requests; by default one is made.
        pause: seconds before the first further try; doubles with each.

    Raises:
        UsageError: the run does not fit the board, which is found out before anything is sent, or the board refuses it.
        UnknownName: there is no such run.
        TransportError: the board cannot be reached.
    """
    base, slug = _address(board)
    own = client is None
    http = client or httpx.Client(base_url=base, timeout=60.0)
    try:
        link = Link(http, base, token, pause, say)
        terms = link.ask("GET", f"/api/boards/{slug}/terms")
        found = store.run(run)
        samples: dict[str, int] = {}
        tasks = _check(found, store.tasks(run), terms, samples)
        link.ask("GET", "/api/account")  # a token that may not send is found before the run is packed
        with tempfile.TemporaryDirectory(prefix="testbed-submit-") as folder:
            bundle = write_bundle(store, found, tasks, samples, Path(folder) / "bundle")
            say(f"{bundle.attempts:,} attempts in {bundle.size:,} bytes, SHA-256 {bundle.content}")
            entry = _send(link, slug, bundle, int(terms["chunk"]), title, run, say)
        say(f"entry: {base}/entries/{entry}; waiting for it to be checked")
        return _verdict(link, base, entry, wait)
    finally:
        if own:
            http.close()


def _address(board: str) -> tuple[str, str]:
    """The server and the slug of a board's address."""
    url = address_of(board)
    folder, _, slug = url.path.rstrip("/").rpartition("/") if url is not None else ("", "", "")
    if url is None or not folder.endswith("/boards") or not slug:
        raise UsageError(f"{board!r} is no board's address; it looks like https://example.org/boards/sums.")
    check_encrypted(board)
    return f"{url.scheme}://{url.netloc.decode()}{folder.removesuffix('/boards')}", slug


def _check(run: Run, listed: Sequence[Task], terms: Mapping[str, Any], samples: dict[str, int]) -> list[Task]:
    """The run's tasks that the board has, and in `samples` how many attempts of each arm it wants.

    Raises:
        UsageError: the run does not fit; says everything that does not.
    """
    if terms["private"]:
        raise UsageError(f"board {terms['slug']!r} has private tasks: its attempts are made against the server.")
    findings = Findings()
    asked = Asked(
        terms["seed"],
        terms["samples"],
        Budget.from_mapping(terms["budget"]),
        Rules(tuple(terms["tools"]), terms["corpora"]),
        dict.fromkeys(terms["tasks"]),
    )
    tasks = [task for task in listed if task.hash in asked.tasks]
    claimed = [ClaimedTask(hash=task.hash, environment=task.environment, prompt=task.prompt) for task in tasks]
    check_head(run.seed, claimed, asked, findings)
    if (apart := _other_tables(terms.get("env", []), run.experiment.get("env", []))) and len(tasks) < len(asked.tasks):
        findings.wrong("structure", f"its [[env]] differs from the board's (board → run): {'; '.join(apart)}.")
    for arm in run.arms:
        wanted = asked.samples["tools" if arm.spec.get("tools") else "bare"]
        samples[arm.name] = min(wanted, run.samples[arm.name])
    arms = [ClaimedArm(hash=a.hash, name=a.name, samples=samples[a.name], spec=sent_of(a.spec)) for a in run.arms]
    read_arms(arms, asked, findings)
    if wrong := [reason.text for reason in findings.reasons() if reason.level == "wrong"]:
        raise UsageError(
            f"run {run.name!r} does not fit board {terms['slug']!r}:\n" + "\n".join(f"- {t}" for t in wrong)
        )
    return tasks


def _other_tables(board: Sequence[Mapping[str, Any]], run: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a run's [[env]] tables have otherwise than the board's."""
    count = [f"{len(board)} tables → {len(run)}"] if len(board) != len(run) else []
    pairs = zip(board, run, strict=False)
    apart = (differences(one["id"], one, other, absent="the default") for one, other in pairs)
    return [*count, *(line for lines in apart for line in lines)]


def _send(
    link: Link, slug: str, bundle: Written, chunk: int, title: str, run: str, say: Callable[[str], object]
) -> str:
    """Sends what the board does not have of a bundle; returns the entry's id."""
    hashes = [hashlib.sha256(piece).hexdigest() for piece in _pieces(bundle.path, chunk)]
    told = {"content": bundle.content, "bytes": bundle.size, "chunks": hashes}
    standing = link.ask("POST", f"/api/boards/{slug}/uploads", json=told)
    upload, missing = standing["upload"], set(standing["missing"])
    if standing["state"] == "open":
        for n, piece in enumerate(_pieces(bundle.path, chunk)):
            if n in missing:
                link.ask("PUT", f"/api/uploads/{upload}/chunks/{n}", content=piece)
                say(f"sent {n + 1} of {len(hashes)} pieces")
        link.ask("POST", f"/api/uploads/{upload}/complete", json={"title": title or run})
    else:
        say("the board knows this run already" + _other_title(link, upload, title))
    return str(upload)


def _other_title(link: Link, entry: str, title: str) -> str:
    """Says that an entry which is there keeps its title, where another one is asked for."""
    told = link.ask("GET", f"/api/entries/{entry}") if title else {"title": title}
    there = told["title"]
    if there == title or told["state"] not in ("waiting", *ACCEPTED):
        return ""
    return f", under the title {there!r}, which stays; `testbed board retitle` gives it another"


def _verdict(link: Link, base: str, entry: str, wait: float) -> Submitted:
    """What became of an entry, once it is decided or the time is up."""
    until, pause = time.monotonic() + wait, 0.2
    while True:
        told = link.ask("GET", f"/api/entries/{entry}")
        if told["state"] != "waiting" or time.monotonic() >= until:
            reasons = tuple(Reason(r["check"], r["level"], r["text"], r.get("entry", "")) for r in told["reasons"])
            return Submitted(entry, base + told["page"], told["state"], reasons)
        time.sleep(min(pause, max(0.0, until - time.monotonic())))
        pause = min(2 * pause, 5.0)


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(size):
            yield piece
