"""The table of what merging costs in score, as a frame and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from repro.analysis.merging import MergingCost, Pair
from repro.analysis.paper import AVERAGE
from repro.plans.plan import Plan
from repro.report.escapes import markdown_prose
from repro.report.formats import MISSING, markdown_table

MERGING_NOTE = (
    "Each adapter was tested twice on the same items: merged into the base in the run's precision, as all "
    "other tables show it, and beside the base's weights. Differences are merged minus unmerged, below 0 "
    "where merging costs something, paired by item and seed, with 95 % intervals over both; none where no "
    "item changed. Share lost: ‖round(W0 + ΔW) - (W0 + ΔW)‖ / ‖ΔW‖ of a layer in the run's precision, as the "
    "mean over layers and seeds, and the largest."
)


def merging_table(costs: Sequence[MergingCost]) -> pd.DataFrame:
    """One line for each row, or for each of its columns where they have no average.

    Returns:
        Columns `block`, `row`, `column`, `seeds`; `merged`, `unmerged`, `difference` (merged minus unmerged)
        and `half_width` in the column's unit; the same four with `probability_` before them, in percent;
        `lost` and `most_lost`, shares of dW in percent.
    """
    return pd.DataFrame(
        {
            "block": cost.row.block,
            "row": cost.row.label,
            "column": cost.column,
            "seeds": cost.score.difference.runs,
            **dict(_numbers("", cost.score)),
            **dict(_numbers("probability_", cost.probability)),
            "lost": None if cost.lost is None else 100 * cost.lost,
            "most_lost": None if cost.most_lost is None else 100 * cost.most_lost,
        }
        for cost in costs
    )


def _numbers(prefix: str, pair: Pair | None) -> Iterator[tuple[str, float | None]]:
    yield f"{prefix}merged", pair.merged if pair else None
    yield f"{prefix}unmerged", pair.unmerged if pair else None
    yield f"{prefix}difference", pair.difference.mean if pair else None
    yield f"{prefix}half_width", pair.difference.half_width if pair else None


def merging_lines(costs: Sequence[MergingCost]) -> list[str]:
    """The table as Markdown, without `MERGING_NOTE`."""
    head = ["row", "seeds", "score merged", "unmerged", "difference"]
    head += ["gold probability merged (%)", "unmerged", "difference", "share of ΔW lost (%)", "at most"]
    blocks = {cost.row.block for cost in costs}
    rows = [
        [
            _name(cost) + (f" ({cost.row.block})" if len(blocks) > 1 else ""),
            str(cost.score.difference.runs),
            *_texts(cost.score),
            *_texts(cost.probability),
            *(MISSING if share is None else f"{100 * share:.2g}" for share in (cost.lost, cost.most_lost)),
        ]
        for cost in costs
    ]
    return markdown_table(head, rows)


def merging_page(plan: Plan, costs: Sequence[MergingCost]) -> str:
    """An experiment's table with its title and note, as a Markdown page."""
    lines = [f"# {markdown_prose(plan.experiment.title)}: what merging costs", ""]
    if plan.profile.watermark:
        lines += [f"**{markdown_prose(plan.profile.watermark)}**", ""]
    return "\n".join([*lines, *merging_lines(costs), "", MERGING_NOTE, ""])


def _name(cost: MergingCost) -> str:
    if cost.column == AVERAGE:
        return cost.row.label
    return f"{cost.row.label}, {cost.row.columns[cost.column]}"


def _texts(pair: Pair | None) -> list[str]:
    if pair is None:
        return [MISSING] * 3
    width = pair.difference.half_width
    change = "none" if pair.identical else f"{pair.difference.mean:+.2f}"
    if width is not None and not pair.identical:
        change += f" ± {width:.2f}"
    return [f"{pair.merged:.1f}", f"{pair.unmerged:.1f}", change]
