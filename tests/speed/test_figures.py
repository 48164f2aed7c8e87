"""The benchmarks of a run on tiny models: both sides do the same work. Speed is not tested."""

import pytest

from repro.runs.measurements import Measurement
from repro.speed import evaluation, generation, ranks, startup, training
from repro.speed.conditions import Conditions

SMALL = Conditions(small=True)


@pytest.mark.parametrize("bench", [training, generation, ranks])
def test_a_bench_compares_equal_work(bench) -> None:
    # A benchmark raises if its two sides give different results.
    found = list(bench.figures(SMALL))
    assert found and all(isinstance(f, Measurement) and f.ratio.median > 0 for f in found)


def test_the_fixed_costs_of_a_command_and_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_COMMANDS", {"--help": 0.5})
    names = [f.name for f in startup.figures(SMALL) if isinstance(f, Measurement)]
    assert names == [
        "`repro --help` / its bound of 0.5 s",
        "a run outside training and evaluation / its bound of 3 s",
    ]


def test_evaluation_comes_to_lm_evals_accuracies() -> None:
    (figure,) = evaluation.figures(SMALL)
    assert isinstance(figure, Measurement) and "same accuracies" in figure.note
