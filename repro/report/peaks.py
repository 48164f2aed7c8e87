"""The table of a sweep's peaks: each method at its best, and the curvature where it starts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from repro.analysis.peaks import PLATEAU, Peak
from repro.plans.spec import RunSpec
from repro.report.formats import MISSING, markdown_table
from repro.runs.known_curvature import Curvature

CURVATURE = "largest Hessian eigenvalue at the start"
"""What the number is: see `repro.analysis.curvature`."""


def peak_table(found: Sequence[Peak], curvature: Callable[[RunSpec], Curvature | None]) -> pd.DataFrame:
    """One line for each curve.

    Args:
        curvature: the stored curvature at the start of a run, if there is one.

    Returns:
        Columns `block`, `row` (the curve's id), `curve` (its label), `points`, `seeds`, `best` (x), `score`,
        `half_width`, `seeds_best` (x of each seed), `plateau_low` and `plateau_high` (x), `factor`,
        `open` (whether the plateau reaches an end of the tried values: `low`, `high` or both), `difference`
        and `difference_half_width` (see `Peak`), `curvature` (mean over the seeds for which it is known, None
        without any).
    """
    return pd.DataFrame(
        {
            "block": peak.row.block,
            "row": peak.row.curve,
            "curve": peak.label,
            "points": peak.points,
            "seeds": peak.score.runs,
            "best": peak.best,
            "score": peak.score.mean,
            "half_width": peak.score.half_width,
            "seeds_best": ", ".join(f"{x:g}" for x in peak.seeds_best.values()),
            "plateau_low": peak.plateau[0],
            "plateau_high": peak.plateau[1],
            "factor": peak.width,
            "open": " ".join(
                end for end, reached in (("low", peak.low_end), ("high", peak.high_end)) if reached
            ),
            "difference": peak.difference.mean if peak.difference else None,
            "difference_half_width": peak.difference.half_width if peak.difference else None,
            "curvature": _mean_curvature(peak, curvature),
        }
        for peak in found
    )


def _mean_curvature(peak: Peak, curvature: Callable[[RunSpec], Curvature | None]) -> float | None:
    known = [found.largest for spec in peak.row.specs if (found := curvature(spec))]
    return fmean(known) if known else None


def peak_lines(table: pd.DataFrame, score: str = "average (%)") -> list[str]:
    """The table as Markdown, with a note on its terms; nothing without a curve.

    Args:
        score: what the peaks are of, the heading of a column.
    """
    if table.empty:
        return []
    columns: dict[str, list[str]] = {
        "": list(table["curve"]),
        "best at": [f"{best:g}" for best in table["best"]],
        score: list(map(_with_width, map("{:.1f}".format, table["score"]), table["half_width"])),
        "best of each seed": list(table["seeds_best"]),
        "plateau": [_plateau(line) for line in table.to_dict("records")],
    }
    first = table["difference"].isna()
    if not first.all():
        columns[f"minus {table['curve'][first].iloc[0]} (points)"] = [
            "" if pd.isna(difference) else _with_width(f"{difference:+.1f}", half_width)
            for difference, half_width in zip(
                table["difference"], table["difference_half_width"], strict=True
            )
        ]
    if table["curvature"].notna().any():
        columns[CURVATURE] = [MISSING if pd.isna(found) else f"{found:.3g}" for found in table["curvature"]]
    note = (
        f"Plateau: tried values without a gap around the best whose {score.removesuffix(' (%)')} is "
        f"less than {PLATEAU:g} point, or one standard error of the paired difference if that is more, below "
        "the highest; < and > mark an end of the tried values. The figure has it as a bar below the "
        "curves, with a mark at the best value. All of this is of the seeds that every point of a curve has."
    )
    return [*markdown_table(list(columns), list(map(list, zip(*columns.values(), strict=True)))), "", note]


def _with_width(text: str, half_width: float | None) -> str:
    return text if half_width is None or pd.isna(half_width) else f"{text} ± {half_width:.1f}"


def _plateau(line: Mapping[Hashable, Any]) -> str:
    ends = str(line["open"]).split()
    factor = "" if pd.isna(line["factor"]) else f" ({line['factor']:.3g} x)"
    low, high = "< " if "low" in ends else "", " >" if "high" in ends else ""
    return f"{low}{line['plateau_low']:g} to {line['plateau_high']:g}{high}{factor}"
