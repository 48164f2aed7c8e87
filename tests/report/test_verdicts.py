"""The figure of all verdicts shows each claim's deciding comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.analysis import claims
from repro.analysis.ledger import Claim, Comparison, load_ledger
from repro.analysis.statistics import Estimate
from repro.analysis.verdicts import PValues, Scored
from repro.report.summary import summary
from repro.report.verdicts import deciding, draw_verdicts

COMPARISON = Comparison(experiment="table1", better=("x",), worse=("y",))
CLAIM = Claim(id="a", where="Table 1", text="One is better.", comparisons=(COMPARISON,))


def _tested(mean: float, by_probability: claims.Tested | None = None) -> claims.Tested:
    """A difference with a standard error of 1 and 30 degrees of freedom."""
    estimate = Estimate(mean, 2.04, 3, parts=((1.0, 30.0),))
    return claims.Tested(
        "m", f"x{mean:g}", "y", None, 0.0, None, 1.0, estimate, by_probability=by_probability
    )


@pytest.mark.parametrize(
    ("p_values", "shown"),
    [
        (PValues(0.01, 1, 1), 2.0),  # reproduced: the least certain of those that must all hold
        (PValues(1, 0.01, 1), -5.0),  # contradicted: one comparison is enough
        (PValues(1, 1, 1), -5.0),  # undecided: the furthest from being as claimed
    ],
)
def test_the_deciding_comparison_is_shown(p_values: PValues, shown: float) -> None:
    means = [2.0, 4.0] if p_values.verdict == "reproduced" else [2.0, -5.0, -1.0]
    one = Scored(CLAIM, tuple(map(_tested, means)), p_values={"score": p_values})
    found = deciding(one)
    assert found is not None and found.difference is not None
    assert found.difference.mean == shown


def test_the_measure_that_decides_is_shown() -> None:
    tested = _tested(1.0, by_probability=_tested(3.0))
    p_values = {"score": PValues(1, 1, 1), "probability": PValues(0.01, 1, 1)}
    found = deciding(Scored(CLAIM, (tested,), p_values=p_values))  # type: ignore[arg-type]
    assert found is not None and found.difference is not None
    assert found.difference.mean == 3.0


def test_only_claims_about_scores_with_data_are_drawn(tmp_path: Path) -> None:
    timed = next(claim for claim in load_ledger().claims if claim.overhead)
    nothing = Scored(CLAIM, (claims.Tested("m", "x", "y", None, 0.0, None, 1.0, None),))
    others = [Scored(timed, (_tested(2.0),), p_values={"score": PValues(0.01, 1, 1)}), nothing]
    assert draw_verdicts(others, lambda claim: ["laptop"], tmp_path) == []
    drawn = draw_verdicts(
        [*others, Scored(CLAIM, (_tested(2.0),), p_values={"score": PValues(0.01, 1, 1)})],
        lambda claim: ["laptop"],
        tmp_path,
    )
    text = next(path for path in drawn if path.suffix == ".svg").read_text(encoding="utf-8")
    assert "One is better." in text and "x2 - y; accuracy, laptop, 3 seeds" in text
    assert text.count("One is better.") == 1


def test_the_paragraph_to_quote_counts_verdicts_and_tells_differences_by_both_measures() -> None:
    claim = CLAIM.model_copy(update={"id": "beats-lora"})
    tested = _tested(-1.0, by_probability=_tested(3.0))
    told = Scored(claim, (tested,), p_values={"score": PValues(1, 1, 0.01)})
    other = Scored(CLAIM, (_tested(2.0),), p_values={"score": PValues(0.01, 1, 1)})
    (line,) = summary([told, other, Scored(CLAIM)], lambda claim: ["laptop"])
    assert line.startswith("Of 3 statements of the paper 2 were tested at this scale: 1 are reproduced, 0 ")
    assert "in 1 the rows are equal" in line and "1 were not tested" in line
    assert line.endswith("differs from y by -1.0 ± 2.0 points and +3.0 ± 2.0 of probability (3 seeds).")
