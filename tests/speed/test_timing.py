"""Timing with a clock that the test controls."""

import pytest

from repro.speed import timing
from repro.speed.timing import Times, ratio, take_turns


def test_cases_take_turns_and_the_warm_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    order: list[str] = []

    def case(name: str, seconds: float) -> None:
        nonlocal now
        now += seconds * (100 if len(order) < 2 else 1)
        order.append(name)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    times = take_turns({"a": lambda: case("a", 2.0), "b": lambda: case("b", 1.0)}, rounds=3)

    assert order == ["a", "b"] * 4
    assert times == {"a": Times(seconds=(2.0,) * 3), "b": Times(seconds=(1.0,) * 3)}


def test_a_ratio_is_taken_round_by_round() -> None:
    measured = ratio(Times(seconds=(2.0, 20.0, 3.0)), Times(seconds=(1.0, 10.0, 1.0)))

    assert (measured.median, measured.least, measured.most) == (2.0, 2.0, 3.0)
