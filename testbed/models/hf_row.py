"""One message being written, as the batch sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from testbed.models.base import uniforms
from testbed.models.hf_prefix import Read

_DRAWS = 256  # uniform numbers made at a time


@dataclass(eq=False)
class Row:
    """One message being written.

    Attributes:
        prompt: token ids that the model is given, at least one.
        limit: most tokens to write.
        temperature: 0 takes the likeliest token.
        top_p: nucleus mass in (0, 1].
        stream: key of the attempt's random numbers.
        position: tokens that the attempt wrote in earlier messages.
        logprobs: of the tokens, at temperature 1 and without a nucleus, in nats; None if nobody wants them.
        stops: what ends the message instead of the model's own ends; None for those.
        tokens: what is written so far.
        finish: "stop" or "length" when done, else "".
        keep: whether the attempt may go on: what it wrote is then remembered, and its next message reads what is new.
        trunk: the shared beginning of the prompt, whose keys and values are not among the row's own; see `stand_on`.
        apart: tokens in it.
        pages: where its keys and values lie, if they lie in pages.
        line: of the table in which these stand.
        share: seconds: its share of the time that was spent on the batches it was in.
    """

    prompt: tuple[int, ...]
    limit: int
    temperature: float = 1.0
    top_p: float = 1.0
    stream: int = 0
    position: int = 0
    logprobs: list[float] | None = None
    stops: Callable[[Sequence[int]], bool] | None = field(default=None, repr=False)
    tokens: list[int] = field(default_factory=list)
    finish: str = ""
    keep: bool = False
    trunk: Read | None = field(default=None, repr=False)
    apart: int = 0
    pages: list[int] = field(default_factory=list, repr=False)
    line: int = field(default=0, repr=False)
    share: float = 0.0
    _block: list[float] = field(default_factory=list, repr=False)

    @property
    def seen(self) -> int:
        """Tokens whose keys and values are in the cache: all but the last one written."""
        return len(self.prompt) + max(len(self.tokens) - 1, 0)

    @property
    def own(self) -> int:
        """Tokens whose keys and values are the row's own: those seen behind the trunk."""
        return self.seen - self.apart

    @property
    def most(self) -> int:
        """Columns of the cache that the row needs when it is written to its limit."""
        return len(self.prompt) + self.limit - self.apart

    @property
    def length(self) -> int:
        """Tokens when it is written to its limit."""
        return len(self.prompt) + self.limit

    def stand_on(self, trunk: Read | None) -> None:
        """Sets the beginning that the row shares with others."""
        self.trunk, self.apart = trunk, len(trunk.tokens) if trunk else 0

    def restart(self) -> None:
        """Forgets what was written: the same tokens come again."""
        self.tokens.clear()
        self.finish, self.share = "", 0.0
        self.stand_on(None)
        self.pages = []
        if self.logprobs is not None:
            self.logprobs.clear()

    def draw(self) -> float:
        """The uniform number that decides the next token: a function of the stream and of how many came before."""
        at = len(self.tokens) % _DRAWS
        if at == 0:
            size = min(_DRAWS, self.limit - len(self.tokens))
            self._block = uniforms(self.stream, self.position + len(self.tokens), size).tolist()
        return self._block[at]
