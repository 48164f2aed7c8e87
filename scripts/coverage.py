"""How often intervals of a paired difference cover the truth, in simulated experiments; docs/statistics.md.

    .venv/bin/python scripts/coverage.py [experiments for each cell, 500 by default]

Two methods are run with the same seeds on the same items of eight tasks. A run's strength on an item is a sum
of normal effects; an item is right where the strength is above 0 (binary), or counts with its probability
Phi(strength) (continuous). The true difference of the means has a closed form in both.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, ndtr, stdtrit

from repro.analysis.statistics import Part, mean_over_tasks

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
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
