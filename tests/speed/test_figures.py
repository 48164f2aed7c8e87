"""The benchmarks of a run on tiny models: both sides do the same work. Speed is not tested."""

import pytest

from repro.speed import evaluation, generation, ranks, training


@pytest.mark.parametrize("bench", [training, generation, ranks])
def test_a_bench_compares_equal_work(bench) -> None:
    # A benchmark raises if its two sides give different results.
    found = list(bench.figures(small=True))
    assert found and all(figure.ratio.median > 0 for figure in found)


def test_evaluation_comes_to_lm_evals_accuracies() -> None:
    (figure,) = evaluation.figures(small=True)
    assert "same accuracies" in figure.note
