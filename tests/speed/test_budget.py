"""The time of the bench, with a clock that the test controls."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from repro.speed.budget import Budget, OutOfTime, TimeUp, alarm
from repro.speed.timing import take_turns


class Clock:
    """Seconds that pass as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def case(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds

        return run

    def timed(self, call: Callable[[], object]) -> float:
        before = self.now
        call()
        return self.now - before


def test_shares_are_of_what_is_left_and_the_last_has_all_of_it() -> None:
    clock, shares = Clock(), {}
    for name, part in Budget(100, clock=clock).shared({"a": 1.0, "b": 2.0, "c": 2.0}, stretch=2):
        shares[name] = part.share, part.most
        clock.now += {"a": 40.0, "b": 4.0, "c": 70.0}[name]
        if name == "c":
            assert part.share == -14
    # `a` overdraws its 20 and takes it from the others; what `b` leaves over is `c`'s.
    assert shares == {"a": (20, 40), "b": (30, 60), "c": (56, 56)}


@pytest.mark.parametrize(
    ("share", "seconds", "rounds"),
    [
        (1000, 2.0, 15),  # all fit
        (20, 2.0, 9),  # the warm-up and nine rounds
        (5, 2.0, 3),  # the fewest, in twice the share
    ],
)
def test_rounds_end_with_the_share_but_for_the_fewest(share: float, seconds: float, rounds: int) -> None:
    clock = Clock()
    budget = Budget(share, 2 * share, clock)
    times = take_turns(
        {"a": clock.case(seconds / 2), "b": clock.case(seconds / 2)},
        rounds=15,
        budget=budget,
        timed=clock.timed,
    )
    assert {name: len(found.seconds) for name, found in times.items()} == {"a": rounds, "b": rounds}


@pytest.mark.parametrize("warm_up", [0, 1, 3])
def test_what_does_not_fit_is_given_up_after_the_first_round_that_tells(warm_up: int) -> None:
    clock = Clock()
    budget = Budget(10, 20 + 8 * warm_up, clock)
    with pytest.raises(OutOfTime, match=r"it would take about (24|16) s, and has 12 s|has 20 s"):
        take_turns({"a": clock.case(8.0)}, rounds=5, warm_up=warm_up, budget=budget, timed=clock.timed)
    assert clock.now == 100 + 8 * max(1, warm_up)


def test_a_warm_up_that_compiles_does_not_count_against_the_rounds() -> None:
    clock = Clock()
    seconds = iter([50.0, 1.0, 1.0, 1.0, 1.0, 1.0])

    def case() -> None:
        clock.now += next(seconds)

    times = take_turns({"a": case}, rounds=4, warm_up=2, budget=Budget(60, clock=clock), timed=clock.timed)
    assert times["a"].seconds == (1.0,) * 4


@pytest.mark.parametrize(("stretch", "most"), [(2, 7), (4, 5), (None, 5)])
def test_the_whole_is_never_exceeded_by_more_than_a_call(stretch: float | None, most: int) -> None:
    """Parts that are all too slow: some are measured, the others left out, and the sum stays as given."""
    clock, measured = Clock(), 0
    for _, part in Budget(600, clock=clock).shared({str(n): 1.0 for n in range(7)}, stretch):
        try:
            part.check(0)
            take_turns({"a": clock.case(30.0)}, rounds=15, budget=part, timed=clock.timed)
            measured += 1
        except OutOfTime:
            continue
    assert 0 < measured <= most
    assert 600 - 90 < clock.now - 100 < 600 + 30


def test_a_check_names_what_is_missing() -> None:
    clock = Clock()
    budget = Budget(10, clock=clock)
    budget.check(10)
    with pytest.raises(OutOfTime, match="it would take about 1,200 s, and has 10 s"):
        budget.check(1200)
    clock.now += 10
    with pytest.raises(OutOfTime, match="no time was left"):
        budget.check(0)


def test_an_alarm_ends_what_no_estimate_foresaw() -> None:
    def stubborn() -> None:
        try:
            time.sleep(5)
        except Exception:  # as libraries do
            pytest.fail("the alarm was taken for an error")

    started = time.monotonic()
    with pytest.raises(TimeUp), alarm(0.05):
        stubborn()
    with alarm(60.0):
        pass
    assert time.monotonic() - started < 2
