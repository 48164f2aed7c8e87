"""What a log says while runs go on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.runs.progress import Watch


def test_a_log_gets_a_line_now_and_then_with_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    spec = next(iter(expand(load_experiment("table1"), load_profile("smoke")).runs.values()))
    out = io.StringIO()
    with Watch(1, Console(file=out)) as watch:
        watch.begin(spec)
        # A resumed run: 100 steps are done, each takes 4 s, and what went before says nothing about the pace.
        now = 50.0
        for step in range(101, 119):
            watch.report("train", step, 200)
            now += 4
        watch.report("evaluate", 1, 10)
        now += 10
        watch.report("evaluate", 2, 10)
        watch.end("done")
    assert out.getvalue().splitlines() == [
        "[1/1] tiny-llama adapter_p seed 0: train 102/200, 0:06:32 left",
        "[1/1] tiny-llama adapter_p seed 0: train 110/200, 0:06:00 left",
        "[1/1] tiny-llama adapter_p seed 0: train 118/200, 0:05:28 left",
        "[1/1] tiny-llama adapter_p seed 0: done (132 s)",
    ]
