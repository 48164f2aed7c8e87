"""Figure and table of the gain over the untrained model against the size of the update, and signs turned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from repro.analysis.norms import NEAR, NormPoint
from repro.methods.dual_lora import DualLoRA
from repro.plans.profile import Profile
from repro.report.escapes import figure_text
from repro.report.figures import STYLE, pyplot, save_figure
from repro.report.formats import MISSING, markdown_table

TITLE = "Gain over the untrained model against the size of the update"
# Settings of Dual LoRA that change its form or what is trained, not its size.
_FORM = (
    "magnitude_activation",
    "direction",
    "sign_estimator",
    "clip",
    "warmup",
    "freeze_direction_after",
    "freeze_magnitude",
)
_MEASURES = {
    "norm": "||ΔW|| / ||W0|| after training, all adapted layers",
    "turned": "signs of D C that differ from step 0 (%), mean over layers",
}
_LOOKS = [
    ("C1", "D"),
    ("C0", "o"),
    ("C2", "s"),
    ("C3", "^"),
    ("C4", "v"),
    ("C5", "P"),
    ("C6", "X"),
    ("0.4", "<"),
]


def norm_table(points: Sequence[NormPoint]) -> pd.DataFrame:
    """One line for each point, by norm.

    Returns:
        Columns `experiment`, `block`, `kind` (see `kind_of`), `row`, `seeds`, `norm`, `norm_low` and
        `norm_high` (over the seeds), `gain` and `half_width` (points), `near` (label of the LoRA row with the
        nearest norm), `near_norm`, `difference` and `difference_half_width` (points, from that row), and
        `turned` (of Dual LoRA, signs that differ from step 0, in percent).
    """
    lines = pd.DataFrame(
        {
            "experiment": point.experiment,
            "block": point.planned.block,
            "kind": kind_of(point),
            "row": point.planned.label,
            "seeds": point.gain.runs,
            "norm": point.norm,
            "norm_low": point.spread[0],
            "norm_high": point.spread[1],
            "gain": point.gain.mean,
            "half_width": point.gain.half_width,
            "near": point.near.planned.label if point.near else None,
            "near_norm": point.near.norm if point.near else None,
            "difference": point.difference.mean if point.difference else None,
            "difference_half_width": point.difference.half_width if point.difference else None,
            "turned": None if point.turned is None else 100 * point.turned,
        }
        for point in points
    )
    return lines if lines.empty else lines.sort_values("norm", ignore_index=True)


def kind_of(point: NormPoint) -> str:
    """The method's label, with ", variants" for Dual LoRA in another form than the paper's."""
    method = point.planned.specs[0].method
    if isinstance(method, DualLoRA):
        default = DualLoRA()
        if any(getattr(method, name) != getattr(default, name) for name in _FORM):
            return f"{method.label}, variants"
    return method.label


def norm_lines(points: Sequence[NormPoint]) -> list[str]:
    """The table as Markdown; a line that says so without a point."""
    table = norm_table(points)
    if table.empty:
        return ["No run with a norm and an untrained model on the same items is finished yet."]
    rows = [
        [
            f"{line['row']} ({line['experiment']})",
            f"{line['norm']:.3g}",
            _with_width(line["gain"], line["half_width"]),
            str(line["seeds"]),
            MISSING if pd.isna(line["near_norm"]) else f"{line['near']} ({line['near_norm']:.3g})",
            ""
            if pd.isna(line["difference"])
            else _with_width(line["difference"], line["difference_half_width"]),
            "" if pd.isna(line["turned"]) else f"{line['turned']:.1f}",
        ]
        for line in table.to_dict("records")
    ]
    head = [
        "row",
        "‖ΔW‖ / ‖W0‖",
        "gain (points)",
        "seeds",
        "LoRA row of the nearest norm",
        "minus it (points)",
        "signs turned (%)",
    ]
    note = (
        "Frobenius norms over all adapted layers after training, mean over seeds; gains over the untrained "
        f"model, paired by item. A LoRA row is compared where its norm is within a factor of {NEAR:g}. "
        "Signs turned: of D C, since step 0, mean over layers and seeds."
    )
    return [*markdown_table(head, rows), "", note]


def _with_width(value: float, half_width: float | None) -> str:
    return f"{value:+.1f}" + ("" if half_width is None or pd.isna(half_width) else f" ± {half_width:.1f}")


def draw_norms(points: Sequence[NormPoint], profile: Profile, folder: Path) -> list[Path]:
    """Draw a panel per model, and one more against the share of signs turned if a row has one.

    The points of a sweep's curve are connected in the order of its values.

    Returns:
        The files; none without a point.
    """
    if not points:
        return []
    kinds = sorted(dict.fromkeys(map(kind_of, points)), key=lambda kind: kind != DualLoRA.label)
    looks = {kind: _LOOKS[index % len(_LOOKS)] for index, kind in enumerate(kinds)}
    panels: list[tuple[str, str, list[NormPoint]]] = []
    for block in dict.fromkeys(point.planned.block for point in points):
        own = [point for point in points if point.planned.block == block]
        turned = [point for point in own if point.turned is not None]
        panels += [(block, "norm", own)] + ([(block, "turned", turned)] if turned else [])
    plt = pyplot()
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(6.4 * len(panels), 4.6), squeeze=False)
        for axis, (block, measure, own) in zip(axes[0], panels, strict=True):
            for kind, look in looks.items():
                _draw_kind(axis, measure, [point for point in own if kind_of(point) == kind], kind, look)
            axis.axhline(0, color="0.4", linestyle="--", linewidth=1, zorder=1)
            axis.set(title=figure_text(block), xlabel=_MEASURES[measure])
            if measure == "norm":
                axis.set_xscale("log")
            axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=4)
        axes[0, 0].set_ylabel("gain over Base (points), paired, 95 % interval")
        return save_figure(figure, "norm", TITLE, profile.watermark, folder)


def _draw_kind(axis: Any, measure: str, points: list[NormPoint], kind: str, look: tuple[str, str]) -> None:
    if not points:
        return
    color, marker = look
    if measure == "norm":
        for line in _curves(points):
            norms, gains = [point.norm for point in line], [point.gain.mean for point in line]
            axis.plot(norms, gains, color=color, linewidth=0.7, alpha=0.6)
    axis.errorbar(
        [point.norm if measure == "norm" else 100 * (point.turned or 0) for point in points],
        [point.gain.mean for point in points],
        xerr=_ends(points) if measure == "norm" else None,
        yerr=[point.gain.half_width or 0 for point in points],
        color=color,
        marker=marker,
        linestyle="none",
        markersize=4,
        elinewidth=0.5,
        label=figure_text(kind),
    )


def _curves(points: Iterable[NormPoint]) -> Iterable[list[NormPoint]]:
    curves: dict[object, list[NormPoint]] = {}
    for point in points:
        if point.curve is not None:
            curves.setdefault(point.curve, []).append(point)
    return curves.values()


def _ends(points: Sequence[NormPoint]) -> list[list[float]]:
    """How far the smallest and the largest norm of a seed are from the mean."""
    return [
        [max(0.0, point.norm - point.spread[0]) for point in points],
        [max(0.0, point.spread[1] - point.norm) for point in points],
    ]
