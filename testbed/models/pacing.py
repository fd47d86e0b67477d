"""How fast a server is asked: as many requests at one time as it takes, and none before it wants to be asked again.

Nobody knows a server's limits beforehand: they are requests or tokens a minute, or places in a queue, and others use
them too. As TCP does with a line, the number of requests at one time grows until the server refuses one, is then
halved, and grows again by one for every few rounds that it took. A refusal also closes the door for all: for the
time that the server names (Retry-After), else for half a second, twice that after the next refusal, and so on.

A request that was refused before the model began has drawn nothing and is sent again as it is. What may have been
answered is never sent again here.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from testbed.errors import ModelBusy, ModelNotAsked, ModelUnavailable, TransportError, UsageError

START = 8  # requests at one time at first; doubles with every round until the first refusal
ROUNDS = 4  # answered rounds after which one more is tried: each refusal counts towards some servers' limits
SHORTEST, LONGEST = 0.5, 30.0  # seconds that the door stays closed where the server does not say how long
OFTEN = 10  # refusals of one request that is refused beside others that are answered: it may be too large to pass
Answer = TypeVar("Answer")


class Pace:
    """The pace at which one server is asked by all attempts of a model.

    Args:
        most: requests at one time at most.
        patience: seconds of nothing but refusals after which a refusal is passed on, and the longest that the door is
            closed.

    Raises:
        UsageError: `most` is no number of requests.

    Attributes:
        limit: requests at one time, at present.
        refused: requests that were refused and sent again so far.
    """

    def __init__(self, most: int, patience: float) -> None:
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise UsageError(f"model: concurrency must be a whole number of requests from 1 on, not {most!r}.")
        self.limit, self.refused = min(START, most), 0
        self._most, self._patience = most, patience
        self._under_way = 0
        self._line: deque[asyncio.Future[None]] = deque()  # who waits for a place, in order
        self._opens = 0.0  # when the door opens, by the event loop's clock
        self._opening: asyncio.TimerHandle | None = None
        self._asking = 0  # requests that wait or are under way
        self._heard = False  # whether the server has ever answered
        self._refusing_since: float | None = None  # and has answered nothing since
        self._taken = 0  # requests answered since the limit last changed
        self._cuts = 0  # how often the limit was cut; a request sent before a cut brings no further one
        self._refusals = 0  # cuts since the server last answered
        self._given_up: ModelNotAsked | None = None
        self._random = random.Random()  # decides when a server is asked, nothing of what it says

    def refusing(self) -> tuple[float, float] | None:
        """Seconds for which the server has refused everything while somebody waited, and after how many that is told.

        None where it refuses nothing, or perhaps not everything, as it has a request that it has not refused. To be
        asked in the event loop of those who wait.
        """
        if self._refusing_since is None or not self._asking or self._under_way:
            return None
        return _now() - self._refusing_since, self._patience

    async def ask(
        self, send: Callable[[], Awaitable[Answer]], off_clock: Callable[..., AbstractContextManager[None]]
    ) -> tuple[Answer, int]:
        """Sends a request when there is room for it, and again where it was refused.

        Args:
            send: sends it once.
            off_clock: around what is no part of the attempt's time, as in `testbed.models.base.Request`.

        Returns:
            The answer, and how often the request was refused before.

        Raises:
            ModelNotAsked: for as long as `patience` the server refused everything, or this request time and again; it
                asks to wait longer than that, has never been there, or says that waiting is no use.
        """
        if not self._asking:
            self._refusing_since = None  # a refusal of long ago, which nobody waited out, is no sign of today's
        self._asking += 1
        try:
            return await self._ask(send, off_clock)
        finally:
            self._asking -= 1

    async def _ask(
        self, send: Callable[[], Awaitable[Answer]], off_clock: Callable[..., AbstractContextManager[None]]
    ) -> tuple[Answer, int]:
        refused, sent = 0, _now()
        begun = sent
        while True:
            with off_clock(sent):  # since then, this request was refused or has waited
                await self._admission()
            sent, cuts = _now(), self._cuts
            try:
                answer = await send()
            except ModelNotAsked as error:
                if not self._may_pass(error):
                    raise
                self._close(error, cuts)
                if self._is_patience_over(error):
                    raise self._give_up(error) from error
                if refused >= OFTEN and _now() - begun >= self._patience:
                    raise  # others are answered
                refused, self.refused = refused + 1, self.refused + 1
            except (ModelUnavailable, TransportError) as error:
                self._cut(cuts)  # perhaps it was answered; a server in distress is asked less
                if isinstance(error, ModelUnavailable):
                    error.retry_after = min(error.retry_after, self._patience)
                raise
            else:
                self._note_taken()
                return answer, refused
            finally:
                self._under_way -= 1
                self._admit()

    async def _admission(self) -> None:
        """Waits for a place, first come first served."""
        if self._given_up is not None and _now() < self._opens:
            raise ModelNotAsked(str(self._given_up))
        if not self._line:
            self._forget_opening()  # it may be of an event loop that is gone
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if place in self._line:
                self._line.remove(place)
            elif not place.cancelled() and place.exception() is None:  # let in at the same moment
                self._under_way -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        """Lets in who comes next, as far as there is room."""
        closed = self._opens - _now()
        if self._line and closed > 0:
            if self._opening is None:
                self._opening = asyncio.get_running_loop().call_later(closed, self._open)
            return
        while self._line and self._under_way < self.limit:
            place = self._line.popleft()
            if not place.done():
                self._under_way += 1
                place.set_result(None)

    def _open(self) -> None:
        self._opening = None
        self._admit()

    def _forget_opening(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None

    def _note_taken(self) -> None:
        self._heard, self._refusals, self._refusing_since, self._given_up = True, 0, None, None
        self._taken += 1
        if self._taken >= self.limit * (ROUNDS if self._cuts else 1):
            self.limit = min(self.limit + 1 if self._cuts else 2 * self.limit, self._most)
            self._taken = 0

    def _close(self, error: ModelNotAsked, cuts: int) -> None:
        """Closes the door after a refusal of a request that was sent after `cuts` cuts."""
        first = self._cut(cuts)
        self._refusals += first
        if self._refusing_since is None:
            self._refusing_since = _now()
        if first or error.retry_after:
            told = min(error.retry_after, self._patience)
            # A server that refuses once more what it had asked for is not asked sooner than one that says nothing.
            pause = told if told and self._refusals <= 1 else max(told, self._backed_off())
            self._opens = max(self._opens, _now() + pause)

    def _backed_off(self) -> float:
        longer = 2.0 ** min(max(self._refusals - 1, 0), 16)
        return min(SHORTEST * longer, LONGEST) * (1 + self._random.random() / 2)  # others wait too

    def _cut(self, cuts: int) -> bool:
        """Halves the limit, unless that was done since the request in question was sent."""
        if cuts != self._cuts:
            return False
        self._cuts += 1
        self.limit, self._taken = max(self._under_way // 2, 1), 0
        return True

    def _may_pass(self, error: ModelNotAsked) -> bool:
        """Whether it is worth waiting: for a server that is busy, or one that was there before."""
        return error.passing and (isinstance(error, ModelBusy) or self._heard)

    def _is_patience_over(self, error: ModelNotAsked) -> bool:
        if self._given_up is not None or error.retry_after > self._patience:
            return True
        return self._refusing_since is not None and _now() - self._refusing_since >= self._patience

    def _give_up(self, error: ModelNotAsked) -> ModelNotAsked:
        """Passes the refusal on to all who wait; until the door opens, nobody else need wait either."""
        asked = f"wants to be asked again in {error.retry_after:,.0f} s" if error.retry_after else "refuses everything"
        said = f"{str(error).removesuffix('.')}. The server {asked}; patience is {self._patience:g} s."
        self._given_up = ModelNotAsked(said)
        self._forget_opening()
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_exception(ModelNotAsked(said))
        return self._given_up


def seconds_of(option: str, value: float) -> float:
    """An option that is a time.

    Raises:
        UsageError: it is no positive number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UsageError(f"model: {option} must be a positive number of seconds, not {value!r}.")
    return float(value)


def _now() -> float:
    return asyncio.get_running_loop().time()
