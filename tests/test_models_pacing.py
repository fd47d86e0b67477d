"""A server is asked as fast as it takes; nothing is lost by its refusals. All in virtual time."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
from collections.abc import Awaitable, Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest

from helpers.virtual_time import in_virtual_time
from testbed.errors import ModelBusy, ModelError, ModelNotAsked, ModelUnavailable
from testbed.models.pacing import LONGEST, SHORTEST, Pace


def virtually(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        in_virtual_time(lambda: test(**fixtures))  # type: ignore[arg-type, return-value]

    return run


def off_clock(since: float | None = None) -> Any:
    return nullcontext()


def now() -> float:
    return asyncio.get_running_loop().time()


def busy(retry_after: float = 0.0) -> ModelBusy:
    error = ModelBusy("429")
    error.retry_after = retry_after
    return error


@dataclass
class Server:
    """Takes `places` requests at one time and `rate` a second, with bursts of `rate`.

    Attributes:
        sent: when each request came.
        refused: how many were refused.
        most: most that were under way at one time.
    """

    places: int = 10**9
    rate: float = 1e9
    latency: float = 1.0
    retry_after: float = 0.0
    sent: list[float] = field(default_factory=list)
    refused: int = 0
    most: int = 0
    under_way: int = 0
    _tokens: float = -1.0
    _filled: float = 0.0

    async def __call__(self) -> str:
        if self._tokens < 0:
            self._tokens = self.rate
        self._tokens = min(self.rate, self._tokens + (now() - self._filled) * self.rate)
        self._filled = now()
        self.sent.append(now())
        if self.under_way >= self.places or self._tokens < 1:
            self.refused += 1
            await asyncio.sleep(0.01)
            raise busy(self.retry_after)
        self._tokens -= 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.latency)
        self.under_way -= 1
        return "answer"


async def crowd(pace: Pace, server: Callable[[], Awaitable[str]], requests: int = 200) -> list[tuple[str, int]]:
    return await asyncio.gather(*(pace.ask(server, off_clock) for _ in range(requests)))


@virtually
async def test_two_hundred_requests_all_pass_a_server_with_few_places() -> None:
    server, pace = Server(places=10), Pace(256, 300)
    answers = await crowd(pace, server)
    assert [text for text, _ in answers] == ["answer"] * 200
    assert sum(refused for _, refused in answers) == pace.refused == server.refused <= 20  # 7
    assert now() < 30  # 26; 20 if it were known beforehand that there are 10 places


@virtually
@pytest.mark.parametrize("retry_after", [0.0, 1.0])
async def test_two_hundred_requests_all_pass_a_limit_on_requests_a_second(retry_after: float) -> None:
    server, pace = Server(rate=20, latency=0.2, retry_after=retry_after), Pace(256, 300)
    assert len(await crowd(pace, server)) == 200
    assert server.refused <= 60  # 34 to 44, most of them in the first second
    assert now() < 15  # 9 if the rate were known


@virtually
async def test_a_server_without_limits_gets_all_that_there_is() -> None:
    server = Server()
    pace = Pace(256, 300)
    await crowd(pace, server, 2_000)
    assert server.refused == 0
    assert server.most == pace.limit == 256


@virtually
async def test_nobody_asks_before_the_server_wants_to_be_asked_again() -> None:
    server, pace = Server(places=4, retry_after=30.0), Pace(8, 300)
    await crowd(pace, server, 12)
    after = [time for time in server.sent if time > 0]
    assert min(after) == pytest.approx(30.01)  # the refusal itself takes a hundredth of a second


@virtually
async def test_without_a_word_from_the_server_pauses_double_up_to_a_bound() -> None:
    sent: list[float] = []

    async def refuse() -> str:
        sent.append(now())
        if len(sent) == 12:
            return "answer"
        raise busy()

    assert await Pace(8, 1e6).ask(refuse, off_clock) == ("answer", 11)
    pauses = [later - earlier for earlier, later in itertools.pairwise(sent)]
    for n, pause in enumerate(pauses):
        least = min(SHORTEST * 2**n, LONGEST)
        assert least <= pause <= 1.5 * least


@virtually
async def test_waits_are_off_the_clock_and_the_answer_is_on_it() -> None:
    server, pace = Server(places=0, latency=3.0), Pace(8, 300)
    waited = 0.0

    @contextmanager
    def off(since: float | None = None) -> Any:
        nonlocal waited
        began = now() if since is None else since
        yield
        waited += now() - began

    async def later() -> None:
        await asyncio.sleep(10)
        server.places = 1

    opening = asyncio.create_task(later())
    await pace.ask(server, off)
    assert now() - waited == pytest.approx(3.0)  # its refusals' own time is not the attempt's either
    await opening


@virtually
async def test_first_come_is_first_served() -> None:
    pace, served = Pace(1, 300), list[int]()

    async def one(n: int) -> None:
        async def send() -> None:
            served.append(n)
            await asyncio.sleep(1)

        await pace.ask(send, off_clock)

    await asyncio.gather(*map(one, range(20)))
    assert served == list(range(20))


@virtually
async def test_a_server_that_only_refuses_is_given_up_for_all_at_one_time() -> None:
    server, pace = Server(places=0), Pace(256, 60)
    ended = await asyncio.gather(*(pace.ask(server, off_clock) for _ in range(100)), return_exceptions=True)
    assert all(isinstance(error, ModelNotAsked) and "patience is 60 s" in str(error) for error in ended)
    assert 60 <= now() < 100
    asked, then = len(server.sent), now()
    with pytest.raises(ModelNotAsked):
        await pace.ask(server, off_clock)
    assert (len(server.sent), now()) == (asked, then)  # the door is closed: it is not even sent
    server.places = 1
    await asyncio.sleep(60)
    assert await pace.ask(server, off_clock) == ("answer", 0)


@virtually
async def test_a_wait_that_is_longer_than_the_patience_is_not_begun() -> None:
    with pytest.raises(ModelNotAsked, match="asked again in 3,600 s"):
        await Pace(8, 300).ask(Server(places=0, retry_after=3600), off_clock)
    assert now() < 1


@virtually
async def test_a_server_that_was_never_there_is_not_waited_for() -> None:
    async def nobody() -> str:
        raise ModelNotAsked("no connection")

    with pytest.raises(ModelNotAsked, match="no connection"):
        await Pace(8, 300).ask(nobody, off_clock)
    assert now() == 0


@virtually
async def test_a_server_that_goes_away_for_a_while_is_waited_for() -> None:
    async def restarting() -> str:
        if 1 < now() < 50:
            raise ModelNotAsked("no connection")
        return "answer"

    pace = Pace(8, 300)
    await pace.ask(restarting, off_clock)
    await asyncio.sleep(5)
    text, refused = await pace.ask(restarting, off_clock)
    assert text == "answer"
    assert 3 <= refused <= 8


@virtually
async def test_how_long_a_server_has_refused_everything_is_told_until_it_answers() -> None:
    server, pace = Server(places=1), Pace(256, 300)
    await pace.ask(server, off_clock)
    assert pace.refusing() is None
    server.places = 0
    task = asyncio.create_task(pace.ask(server, off_clock))
    await asyncio.sleep(20.01)
    assert pace.refusing() == pytest.approx((20.0, 300.0))
    server.places = 1
    await task
    assert pace.refusing() is None


@virtually
async def test_a_server_that_still_writes_what_it_was_asked_for_does_not_refuse_everything() -> None:
    server, pace = Server(places=1, latency=60), Pace(256, 300)
    tasks = [asyncio.create_task(pace.ask(server, off_clock)) for _ in range(2)]
    await asyncio.sleep(30)
    assert (server.under_way, server.refused > 0, pace.refusing()) == (1, True, None)
    await asyncio.gather(*tasks)


@virtually
async def test_a_refusal_that_nobody_waits_out_is_not_told_any_more() -> None:
    pace = Pace(256, 300)
    task = asyncio.create_task(pace.ask(Server(places=0), off_clock))
    await asyncio.sleep(1)
    assert pace.refusing() is not None
    task.cancel()
    await asyncio.sleep(1)
    assert pace.refusing() is None


@virtually
async def test_a_spent_quota_is_not_waited_for() -> None:
    async def spent() -> str:
        error = busy()
        error.passing = False
        raise error

    pace = Pace(8, 300)
    await pace.ask(Server(), off_clock)
    with pytest.raises(ModelNotAsked):
        await pace.ask(spent, off_clock)
    assert now() == 1


@virtually
@pytest.mark.parametrize("error", [ModelUnavailable("500"), ModelError("404")])
async def test_what_may_have_been_answered_is_never_sent_again(error: Exception) -> None:
    sent = 0

    async def fail() -> str:
        nonlocal sent
        sent += 1
        raise error

    with pytest.raises(type(error)):
        await Pace(8, 300).ask(fail, off_clock)
    assert sent == 1


@virtually
async def test_an_attempt_that_gives_up_waiting_leaves_its_place_to_others() -> None:
    server, pace = Server(latency=10), Pace(1, 300)
    first = asyncio.create_task(pace.ask(server, off_clock))
    await asyncio.sleep(1)
    waiting = [asyncio.create_task(pace.ask(server, off_clock)) for _ in range(3)]
    await asyncio.sleep(1)
    waiting[0].cancel()
    first.cancel()  # it lets the next one in at the moment in which that one is cancelled too
    waiting[1].cancel()
    assert await waiting[2] == ("answer", 0)
    assert pace.limit == 1
    assert now() == 12


def test_one_pace_serves_several_event_loops_in_turn() -> None:
    pace = Pace(4, 300)

    async def refuse() -> str:
        raise busy(50.0)

    async def given_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await pace.ask(refuse, off_clock)

    in_virtual_time(given_up)  # its loop ends while the door is closed
    assert in_virtual_time(lambda: pace.ask(Server(), off_clock)) == ("answer", 0)


@virtually
async def test_a_wait_asked_of_one_request_never_closes_the_door_for_longer_than_the_patience() -> None:
    async def refused_for_ever() -> str:
        raise busy(1e9)

    pace = Pace(8, 300)
    under_way = asyncio.create_task(pace.ask(Server(latency=10), off_clock))
    await asyncio.sleep(1)
    with pytest.raises(ModelNotAsked, match="patience is 300 s"):
        await pace.ask(refused_for_ever, off_clock)
    await under_way  # the server answers after all
    assert await pace.ask(Server(), off_clock) == ("answer", 0)
    assert now() < 310


@virtually
async def test_a_request_that_alone_is_refused_is_passed_on_alone() -> None:
    async def too_large() -> str:
        raise busy()

    pace, answered = Pace(8, 60), 0

    async def others() -> None:
        nonlocal answered
        while True:
            await pace.ask(Server(latency=0.1), off_clock)
            answered += 1

    crowd = asyncio.create_task(others())
    with pytest.raises(ModelNotAsked, match="429"):
        await asyncio.wait_for(pace.ask(too_large, off_clock), 600)
    assert now() >= 60
    before = answered
    await asyncio.sleep(5)
    assert answered > before > 10
    crowd.cancel()


@virtually
@pytest.mark.parametrize("retry_after", [0.0, 0.001])
async def test_a_server_that_refuses_for_a_day_is_asked_seldom(retry_after: float) -> None:
    sent = 0

    async def refuse() -> str:
        nonlocal sent
        sent += 1
        raise busy(retry_after)

    with pytest.raises(ModelNotAsked, match="patience is 86400 s"):
        await Pace(8, 86_400).ask(refuse, off_clock)
    assert 1_100 < sent < 86_400 / LONGEST + 20


@virtually
async def test_a_wait_after_an_error_is_as_long_as_the_patience_at_most() -> None:
    async def fail() -> str:
        error = ModelUnavailable("500")
        error.retry_after = 1e9
        raise error

    with pytest.raises(ModelUnavailable) as failed:
        await Pace(8, 300).ask(fail, off_clock)
    assert failed.value.retry_after == 300  # the runner waits for it


def test_pauses_draw_nothing_from_the_generator_that_others_seed() -> None:
    async def passed() -> tuple[str, int]:
        server = Server(places=0)
        asyncio.get_running_loop().call_later(5, setattr, server, "places", 1)
        return await Pace(8, 300).ask(server, off_clock)

    state = random.getstate()
    assert in_virtual_time(passed)[1] > 1
    assert random.getstate() == state
