"""How often intervals of a paired difference cover the truth, in simulated experiments; docs/statistics.md.

    .venv/bin/python scripts/coverage.py [experiments for each cell, 500 by default]
    .venv/bin/python scripts/coverage.py moderated [experiments for each cell, 4,000 by default]

Two methods are run with the same seeds on the same items of eight tasks. A run's strength on an item is a sum
of normal effects; an item is right where the strength is above 0 (binary), or counts with its probability
Phi(strength) (continuous). The true difference of the means has a closed form in both.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, ndtr, stdtrit

from repro.analysis.moderated import moderated, outlying, prior
from repro.analysis.statistics import Part, Spread, mean_over_tasks

TASKS = 8
# Of the two methods, in strength: about 2 points.
_GAIN = 0.08
_LEVEL = 0.05


@dataclass(frozen=True)
class Mix:
    """Standard deviations of a method's effects: of items, seeds, seeds on a task, and seeds on an item."""

    items: float
    seeds: float
    seed_task: float
    noise: float
    difficulty: float = 1.0

    def strength(self) -> float:
        """Standard deviation of the whole."""
        parts = (self.items, self.seeds, self.seed_task, self.noise, self.difficulty)
        return float(np.sqrt(np.sum(np.square(parts))))


MIXES = {
    "items": Mix(items=0.8, seeds=0.01, seed_task=0.0, noise=0.1),
    "seeds": Mix(items=0.1, seeds=0.15, seed_task=0.0, noise=0.1),
    "interaction": Mix(items=0.05, seeds=0.0, seed_task=0.0, noise=0.8),
    "seeds x tasks": Mix(items=0.3, seeds=0.02, seed_task=0.25, noise=0.4),
    "all": Mix(items=0.4, seeds=0.05, seed_task=0.05, noise=0.4),
}


def draw(
    rng: np.random.Generator, mix: Mix, seeds: int, items: int, binary: bool
) -> tuple[list[NDArray[np.float64]], float]:
    """Differences of two methods, an array (seeds, items) per task in points, and their true mean."""

    def strengths(gain: float) -> NDArray[np.float64]:
        return (
            gain
            + difficulty
            + rng.normal(0, mix.items, (TASKS, 1, items))
            + rng.normal(0, mix.seeds, (1, seeds, 1))
            + rng.normal(0, mix.seed_task, (TASKS, seeds, 1))
            + rng.normal(0, mix.noise, (TASKS, seeds, items))
        )

    difficulty = rng.normal(0, mix.difficulty, (TASKS, 1, items))
    gains = (_GAIN / 2, -_GAIN / 2)
    one, other = (100.0 * ((strengths(gain) > 0) if binary else ndtr(strengths(gain))) for gain in gains)
    scale = mix.strength() if binary else np.hypot(mix.strength(), 1.0)
    truth = 100 * float(ndtr(gains[0] / scale) - ndtr(gains[1] / scale))
    return list(one - other), truth


def half_widths(tasks: list[NDArray[np.float64]]) -> dict[str, float]:
    """Half-widths of 95 % intervals: the project's own, two by Satterthwaite, two that leave a part out."""
    runs, count = tasks[0].shape[0], len(tasks) ** 2
    items = sum(float(task.mean(axis=0).var(ddof=1)) / task.shape[1] / count for task in tasks)
    means = np.mean([task.mean(axis=1) for task in tasks], axis=0)
    seeds = float(means.var(ddof=1)) / runs
    many = float(sum(task.shape[1] - 1 for task in tasks))
    residuals = [t - t.mean(axis=0) - t.mean(axis=1, keepdims=True) + t.mean() for t in tasks]
    both = sum(
        float((r**2).sum()) / ((r.shape[0] - 1) * (r.shape[1] - 1)) / r.size / count for r in residuals
    )
    parts: list[Part] = [(items, many), (seeds, runs - 1.0)]
    own = mean_over_tasks(tasks).half_width
    assert own is not None
    return {
        "sum": _satterthwaite(parts, items + seeds),
        "difference": _satterthwaite(
            [*parts, (both, many * (runs - 1))], max(items + seeds - both, items, seeds)
        ),
        "own": own,
        "items only": _satterthwaite(parts[:1], items),
        "seeds only": _satterthwaite(parts[1:], seeds),
    }


def _satterthwaite(parts: list[Part], total: float) -> float:
    shares = sum(part**2 / freedom for part, freedom in parts)
    return float(stdtrit(total**2 / shares, 1 - _LEVEL / 2) * np.sqrt(total)) if shares else 0.0


def coverage(
    mix: Mix, seeds: int, items: int, binary: bool, trials: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Share of experiments whose interval has the truth in it, and its mean half-width, by interval."""
    rng = np.random.default_rng([seeds, items, binary])
    covered: dict[str, list[bool]] = {}
    widths: dict[str, list[float]] = {}
    for _ in range(trials):
        tasks, truth = draw(rng, mix, seeds, items, binary)
        mean = float(np.mean([task.mean() for task in tasks]))
        for name, width in half_widths(tasks).items():
            covered.setdefault(name, []).append(abs(mean - truth) <= width)
            widths.setdefault(name, []).append(width)
    return (
        {name: float(np.mean(found)) for name, found in covered.items()},
        {name: float(np.mean(found)) for name, found in widths.items()},
    )


def worst_error(seeds: int, level: float) -> tuple[float, float]:
    """The most often that an interval leaves out the truth, over all shares of items and seeds.

    Of the interval by Satterthwaite and of the project's, with many items and no interaction; by quadrature.
    """
    freedom = seeds - 1.0
    luck = chdtri(freedom, (np.arange(4000) + 0.5) / 4000) / freedom
    worst = [0.0, 0.0]
    for share in np.linspace(0.05, 1, 20):  # of the seeds
        items, found = 1 - share, share * luck
        total = items + found
        widths = (
            stdtrit(np.minimum(freedom * (total / found) ** 2, 1e9), 1 - level / 2) * np.sqrt(total),
            np.sqrt(stdtrit(1e9, 1 - level / 2) ** 2 * items + stdtrit(freedom, 1 - level / 2) ** 2 * found),
        )
        worst = [max(most, float(2 * ndtr(-w).mean())) for most, w in zip(worst, widths, strict=True)]
    return worst[0], worst[1]


# Of the difference of two rows, in points: standard deviations of one seed and of the items.
_SEEDS_SD, _ITEMS_SD = 1.0, 0.3
_MANY = 1e9
LEVELS = (0.05, 0.002, 0.001)


def variances(kind: str, rows: int) -> NDArray[np.float64]:
    """Of the rows over seeds, in those of an ordinary row; the first is the largest."""
    if kind == "one at 9":
        return np.array([9.0] + [1.0] * (rows - 1))
    return np.geomspace(2.0, 0.5, rows) if kind == "spread by 4" else np.ones(rows)


@dataclass(frozen=True)
class Errors:
    """Shares of one-sided tests that reject, by level, as arrays (own, moderated).

    Attributes:
        every, first: with equal rows; over all pairs, and over those with the first row.
        found: over all pairs at the last level, by true gain in points.
    """

    every: list[NDArray[np.float64]]
    first: list[NDArray[np.float64]]
    found: dict[float, NDArray[np.float64]]


def moderated_errors(
    kind: str, rows: int, seeds: int, trials: int, gains: Sequence[float] = (1, 2, 4)
) -> Errors:
    """Errors and power of comparisons of rows that share seeds and items, by own and moderated variance.

    Rows' means by seed are drawn as normal; the variance of the items, which are many, is known.
    """
    rng = np.random.default_rng([rows, seeds, len(kind)])
    spreads = np.sqrt(variances(kind, rows) * _SEEDS_SD**2 / 2)
    pairs = list(combinations(range(rows), 2))
    means, widths = [], []
    for _ in range(trials):
        table = rng.normal(0, spreads[:, None], (rows, seeds)) + rng.normal(0, 1, seeds)
        table += rng.normal(0, _ITEMS_SD / np.sqrt(2), (rows, 1))
        drawn = [dict(enumerate(row)) for row in table.tolist()]
        left_out = outlying(drawn)
        learned = prior([row for place, row in enumerate(drawn) if place not in left_out])
        for a, b in pairs:
            less = table[a] - table[b]
            own = Spread(_ITEMS_SD**2, 0.0, float(less.var(ddof=1)), seeds, 256, _MANY)
            means.append(float(less.mean()))
            widths.append(
                [
                    (one.seeds, one.borrowed)
                    for one in (own, moderated(own, None if {a, b} & {*left_out} else learned))
                ]
            )
    mean = np.array(means)[:, None]
    luck, borrowed = np.moveaxis(np.array(widths), 2, 0)
    of_first = np.tile([a == 0 for a, _ in pairs], trials)
    every, first = [], []
    for level in LEVELS:
        items, own_t = stdtrit(_MANY, level), stdtrit(seeds - 1 + borrowed, level)
        half_width = np.sqrt(items**2 * _ITEMS_SD**2 + own_t**2 * luck / seeds)
        wrong = np.abs(mean) > half_width
        every.append(wrong.mean(axis=0) / 2)
        first.append(wrong[of_first].mean(axis=0) / 2)
    return Errors(every, first, {gain: (mean + gain > half_width).mean(axis=0) for gain in gains})


def main_moderated(trials: int) -> None:
    """Print the tables of the moderated variance."""
    counts, cases = (2, 3, 5, 10), [(k, r) for k in ("equal", "one at 9", "spread by 4") for r in (6, 9)]
    found = {(k, r, s): moderated_errors(k, r, s, trials) for k, r in cases for s in counts}
    head = "| " + " | ".join(["variances", "rows", *(f"{seeds} seeds" for seeds in counts)]) + " |"
    for place, level in enumerate(LEVELS):
        print(f"\nerrors at {100 * level:g} %\n\n{head}\n" + "|" + "---|" * (2 + len(counts)))
        for kind, rows in cases:
            cells = []
            for seeds in counts:
                one = found[kind, rows, seeds]
                own, shared = 100 * one.every[place]
                cells.append(f"{own:.2g} / {shared:.2g} ({100 * one.first[place][1]:.2g})")
            print(f"| {kind} | {rows} |", " | ".join(cells), "|")
    print(f"\npower at {100 * LEVELS[-1]:g} %\n\n{head}\n" + "|" + "---|" * (2 + len(counts)))
    for kind, rows in cases:
        shown = [
            ", ".join(
                f"{100 * own:.0f} / {100 * shared:.0f}"
                for own, shared in found[kind, rows, seeds].found.values()
            )
            for seeds in counts
        ]
        print(f"| {kind} | {rows} |", " | ".join(shown), "|")


def main(trials: int) -> None:
    """Print the tables of docs/statistics.md."""
    counts = (2, 3, 5, 10)
    columns = [f"{seeds} seeds" for seeds in counts]
    print("| spread | outcomes | items a task |", " | ".join(columns), "|")
    print("|" + "---|" * (3 + len(counts)))
    for name, mix in MIXES.items():
        for binary in (True, False):
            for items in (64, 256):
                cells = []
                for seeds in counts:
                    covered, widths = coverage(mix, seeds, items, binary, trials)
                    shown = [f"{100 * covered[kind]:.1f}" for kind in ("sum", "difference", "own")]
                    cells.append(f"{' '.join(shown)} ({widths['own'] / widths['sum']:.2f})")
                kind = "binary" if binary else "continuous"
                print(f"| {name} | {kind} | {items} |", " | ".join(cells), "|", flush=True)
    print("\n| leaves out the truth, in % |", " | ".join(columns), "|")
    print("|" + "---|" * (1 + len(counts)))
    for level in (0.05, 0.01, 0.002):
        found = [worst_error(seeds, level) for seeds in counts]
        print(f"| {100 * level:g} |", " | ".join(f"{100 * a:.2g} / {100 * b:.2g}" for a, b in found), "|")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    if "moderated" in sys.argv:
        main_moderated(*(numbers or [4000]))
    else:
        main(*(numbers or [500]))
