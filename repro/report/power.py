"""What more items and seeds would decide: power curves of Dual LoRA less LoRA, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from repro.analysis.finished import runs_by_column
from repro.analysis.paired import paired_outcomes
from repro.analysis.power import power, smallest_gain
from repro.analysis.statistics import Spread, spread
from repro.plans.plan import Plan
from repro.report.figures import STYLE, pyplot, save_figure
from repro.report.formats import markdown_table
from repro.runs.states import RunState

# The two rows of Table 1 that are compared.
_BETTER, _WORSE = "dual_lora", "lora"
# The first shows what is taken for a gain where there is none.
_GAINS = (0.0, 0.5, 1.0, 2.0)
_SEEDS = (1, 2, 3, 5, 10)
_ITEMS = (64, 256, 1024)
_AXIS = np.geomspace(16, 4096, 33)
_POWER = 0.8
# Distinct without colour.
_DASHES = (":", "--", "-.", (0, (5, 1)), "-")


def measured_spread(plan: Plan, states: Sequence[RunState]) -> Spread | None:
    """Variance components of Dual LoRA less LoRA over the finished runs of Table 1's first model.

    None without two seeds that both have finished, or if a task has one item.
    """
    results = {state.spec.hash: state.result for state in states}
    rows = {row.id: row for row in reversed(plan.rows)}
    if not {_BETTER, _WORSE} <= rows.keys():
        return None
    better, worse = (runs_by_column(rows[name], results) for name in (_BETTER, _WORSE))
    found = paired_outcomes(better, worse, list(rows[_BETTER].columns))
    return spread(*found) if found is not None and found[0][0].shape[0] > 1 else None


def power_lines(plan: Plan, states: Sequence[RunState]) -> list[str]:
    """The smallest gain that is found in 80 % of experiments, by seeds and items per task, in Markdown."""
    found = measured_spread(plan, states)
    if found is None:
        return ["It takes two seeds of Dual LoRA and of LoRA to say what more of them would decide."]
    head = ["seeds", *(f"{items:,} items a task" for items in _ITEMS)]
    rows = [
        [str(seeds), *(f"{smallest_gain(found, seeds, items, _POWER):.1f}" for items in _ITEMS)]
        for seeds in _SEEDS
        if seeds > 1
    ]
    variances = (found.items, found.noise, found.seeds)
    items, noise, luck = (f"{np.sqrt(variance):.2f}" for variance in variances)
    return [
        "Smallest true gain of Dual LoRA over LoRA, in points, whose 95 % interval excludes 0 in "
        f"{100 * _POWER:.0f} % of experiments:",
        "",
        *markdown_table(head, rows),
        "",
        f"From {found.runs} seeds of {found.per_task:.0f} items a task. Standard deviations of one seed's "
        f"difference, in points: {items} by the choice of items, {luck} between seeds, {noise} by both "
        "together.",
    ]


def draw_power(plan: Plan, states: Sequence[RunState], folder: Path) -> list[Path]:
    """Draw the power by items per task, one panel for each gain and one line for each number of seeds.

    Returns:
        The files; none where `measured_spread` has none.
    """
    found = measured_spread(plan, states)
    if found is None:
        return []
    plt = pyplot()
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, len(_GAINS), figsize=(2.8 * len(_GAINS), 3.4), sharey=True)
        for panel, gain in zip(axes, _GAINS, strict=True):
            for seeds, dash in zip(_SEEDS, _DASHES, strict=True):
                curve = [power(found, gain, seeds, items) for items in _AXIS]
                label = f"{seeds} seeds" if seeds > 1 else "1 seed, interval over items only"
                panel.plot(_AXIS, curve, label=label, linestyle=dash)
            panel.axvline(found.per_task, color="0.6", linewidth=0.8, zorder=1)
            panel.axhline(_POWER, color="0.6", linewidth=0.8, zorder=1)
            panel.set_xscale("log", base=2)
            panel.set_xticks(_ITEMS, [f"{items:,}" for items in _ITEMS])
            panel.set_xlabel("items per task")
            panel.set_ylim(0, 1)
            panel.set_title(f"true gain {gain:g} points" if gain else "no true gain")
        axes[0].set_ylabel("interval excludes 0 (probability)")
        axes[0].legend(fontsize=7, loc="upper left")
        title = f"What more would decide: Dual LoRA less LoRA, Table 1, profile {plan.profile.name}"
        return save_figure(figure, "power", title, plan.profile.watermark, folder)
