"""Claims about time or memory, tested on the rounds of `repro bench`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from repro.analysis.facts import Fact
from repro.analysis.ledger import Claim, Overhead
from repro.analysis.rounds import signed_rank
from repro.analysis.verdicts import Scored, Tested
from repro.runs.measurements import Measured, Measurement


def of_speed(claim: Claim, overhead: Overhead, speeds: Sequence[Measured]) -> Scored:
    """A claim about time or memory on the first benchmark that measured every reading of it.

    The first is a GPU's: the paper trained on one. Of several processors it is the one with the most rounds.
    A reading without a measurement would make the claim easier, so that a benchmark with some of them comes
    after one with all.
    """

    def rank(one: tuple[Measured, list[Measurement]]) -> tuple[bool, bool, int]:
        speed, figures = one
        whole = {f.name for f in figures} == set(overhead.ratios)
        return whole, speed.device == "gpu", min(len(f.ratio.rounds) for f in figures)

    measured = [(speed, figures) for speed in speeds if (figures := _figures(overhead, speed))]
    if not measured:
        return Scored(claim)
    speed, figures = max(measured, key=rank)
    where = speed.hardware
    if speed.device != "gpu":
        on_gpu = any(one.device == "gpu" for one in speeds)
        where += "; " + ("the GPU's bench lacks it" if on_gpu else "no GPU's bench is among the results")
    return Scored(claim, tuple(_timed(overhead, figures)), tuple(_weighed(overhead, figures)), where=where)


def _timed(overhead: Overhead, figures: Iterable[Measurement]) -> Iterator[Tested]:
    """Comparisons of measurements with several rounds."""
    for figure in figures:
        if len(figure.ratio.rounds) > 1:
            yield Tested(
                block=figure.at,
                better=figure.name,
                worse=f"{overhead.percent:g} % more" if overhead.percent else "no more",
                column=None,
                at_least=0.0,
                at_most=None,
                margin=overhead.equal_within,
                difference=signed_rank(figure.ratio.rounds, overhead.percent, overhead.exceeded),
            )


def _weighed(overhead: Overhead, figures: Iterable[Measurement]) -> Iterator[Fact]:
    """Facts from measurements with a single round, such as bytes, which do not vary."""
    for figure in figures:
        if len(figure.ratio.rounds) == 1:
            more = 100 * (figure.ratio.median - 1)
            found = f"{more:+.2f} %, claimed limit {overhead.percent:g} %; {figure.note}"
            yield Fact(figure.at, figure.name, found, overhead.as_claimed(more) > 0)


def _figures(overhead: Overhead, speed: Measured) -> list[Measurement]:
    return [figure for name in overhead.ratios for figure in speed.figures if figure.name == name]
