"""The benchmarks of a run on tiny models: both sides do the same work. Speed is not tested."""

import pytest

from repro.runs.measurements import Measurement
from repro.speed import evaluation, generation, ranks, training
from repro.speed.conditions import Conditions

SMALL = Conditions(small=True)


@pytest.mark.parametrize("bench", [training, generation, ranks])
def test_a_bench_compares_equal_work(bench) -> None:
    # A benchmark raises if its two sides give different results.
    found = list(bench.figures(SMALL))
    assert found and all(isinstance(f, Measurement) and f.ratio.median > 0 for f in found)


def test_evaluation_comes_to_lm_evals_accuracies() -> None:
    (figure,) = evaluation.figures(SMALL)
    assert isinstance(figure, Measurement) and "same accuracies" in figure.note
