"""What the rounds of a benchmark say about a limit, whatever other processes did meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import exp, log1p

import numpy as np
from numpy.typing import NDArray

from repro.analysis.statistics import Estimate

_TAIL = 0.025


@dataclass(frozen=True, eq=False)
class SignedRank(Estimate):
    """How far the typical ratio of two times is on the claimed side of a limit, in percent.

    The cases of a ratio take turns, so that what disturbs one disturbs the other as likely and as much: the
    logarithms of the ratios are symmetric about that of the undisturbed ratio. Wilcoxon's signed-rank test
    (Biometrics Bulletin 1, 80, 1945), which is exact here, assumes no more. A mean and Student's t would not
    do: on a busy machine one round of 60 was at 4.3 where the median was at 1.00.

    `mean` is the estimate that belongs to the test (Hodges and Lehmann 1963): the median of the means of any
    two rounds. The interval holds the limits that the test does not reject, and `half_width` is half of it.
    Five rounds and fewer have none.

    Attributes:
        ratios: of the rounds.
        means: of the logarithms of any two, and of each with itself, in order.
        sign: 1 if times above the limit are claimed, -1 if below.
        limit: the limit, in percent of the time that is divided by.
    """

    ratios: tuple[float, ...] = ()
    means: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    sign: int = -1
    limit: float = 0.0

    def p_below(self, bound: float) -> float:
        return self._p(bound, self.sign)

    def p_above(self, bound: float) -> float:
        return self._p(bound, -self.sign)

    def repeated(self, times: int) -> SignedRank:
        """What the same rounds would show if each were measured so many times."""
        return signed_rank(self.ratios * times, self.limit, self.sign > 0)

    def _p(self, bound: float, sign: int) -> float:
        """One-sided p-value; `sign` is 1 for the null "the ratio is at most that of the bound"."""
        threshold = log1p((self.limit + self.sign * bound) / 100)
        further = sign * (self.means - threshold)
        # The sum of the ranks of the rounds that are further, as Tukey wrote it. Ties count half.
        ranks = np.count_nonzero(further > 0) + np.count_nonzero(further == 0) / 2
        return float(_at_least(self.runs)[int(ranks)])


def signed_rank(ratios: Sequence[float], limit: float, exceeded: bool = False) -> SignedRank:
    """The overhead that rounds with these ratios, each greater than 0, show beyond a limit in percent.

    Args:
        exceeded: whether times above the limit are claimed, not below.
    """
    logs, sign = np.log(ratios), 1 if exceeded else -1
    first, second = np.triu_indices(len(logs))
    means = np.sort((logs[first] + logs[second]) / 2)
    percent = 100 * (exp(np.median(means)) - 1)
    outside = int(np.count_nonzero(_at_least(len(logs)) <= _TAIL))
    ends = (means[outside - 1], means[-outside]) if outside else None
    return SignedRank(
        mean=sign * (percent - limit),
        half_width=None if ends is None else 50 * (exp(ends[1]) - exp(ends[0])),
        runs=len(logs),
        ratios=tuple(ratios),
        means=means,
        sign=sign,
        limit=limit,
    )


@lru_cache(maxsize=64)
def _at_least(rounds: int) -> NDArray[np.float64]:
    """The probability that ranks 1 to `rounds`, each kept by the toss of a coin, sum to 0, 1, ... or more."""
    chances = np.ones(1)
    for rank in range(1, rounds + 1):
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    return np.cumsum(chances[::-1])[::-1]
