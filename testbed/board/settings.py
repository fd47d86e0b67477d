"""What whoever runs a board can set."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB = 1024, 1024**2


@dataclass(frozen=True)
class Settings:
    """Limits of a served board.

    Attributes:
        body: bytes of a request's body, at most, where no chunk of an upload is sent.
        body_seconds: seconds in which a body must have come.
        chunk: bytes of a chunk of an upload, at most.
        upload: bytes of a whole upload, at most.
        unpacked: bytes of an upload once it is unpacked, at most.
        ratio: how many times its own size an upload may unpack to.
        attempts: attempts in an upload, at most.
        open_uploads: uploads that an account may have under way.
        entries: entries that an account may have over all boards: those that wait, those that were accepted, and what
            is being sent or made.
        waiting: of these, those that wait to be checked or are being sent.
        depth: how deeply the lists and objects of a JSON body may be nested.
        requests: requests per second that one address, or one token, may make for long.
        burst: requests that it may make at once.
        held: bytes of bodies that are held at one time.
        writers: requests at one time that have something changed; fewer than `threads`, which leaves some to readers.
        threads: requests that are worked on at one time.
        models: local models that entries are checked with, as an experiment names them.
        corpora: further corpora to check with: files, folders that `testbed corpus build` made, names of environments.
        work: whether this process also checks entries.
        public_url: at which people reach the board, such as https://example.org; requests that name another server are
            refused then. "" makes links of what each request calls the server.
    """

    body: int = 256 * KIB
    body_seconds: float = 120.0
    chunk: int = 4 * MIB
    upload: int = 512 * MIB
    unpacked: int = 4096 * MIB
    ratio: int = 1000
    attempts: int = 1_000_000
    open_uploads: int = 16
    entries: int = 200
    waiting: int = 20
    depth: int = 100
    requests: float = 20.0
    burst: int = 200
    held: int = 256 * MIB
    writers: int = 24
    threads: int = 40
    models: tuple[str, ...] = ("reference",)
    corpora: tuple[str, ...] = ()
    work: bool = True
    public_url: str = ""
