"""One figure of all verdicts that rest on scores: each claim's deciding comparison, with its interval."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repro.analysis.ledger import Claim
from repro.analysis.verdicts import Scored, Tested, Verdict
from repro.report.escapes import figure_text
from repro.report.figures import STYLE, pyplot, save_figure

# Colour and marker of a verdict, distinct in print without colour.
_LOOKS: dict[Verdict, tuple[str, str]] = {
    "reproduced": ("C2", "o"),
    "contradicted": ("C1", "X"),
    "equal": ("C0", "s"),
    "undecided": ("0.55", "D"),
}
_TITLE = "Every claim about scores: its deciding comparison, with a 95 % interval"
_LABEL = 68  # characters of a line of a label


def deciding(one: Scored) -> Tested | None:
    """The comparison that the verdict hangs on, by the measure that gave it; None without data.

    The least certain one where all comparisons must hold, the clearest where one contradicts. An undecided
    claim hangs on the comparison that is furthest from being as claimed.
    """
    measured = [tested for tested in one.by(one.decided_by) if tested.difference is not None]
    if not measured or one.claim.overhead:
        return None
    if one.verdict == "contradicted":
        return min(measured, key=lambda tested: tested.p_fails())
    if one.verdict == "equal":
        return max(measured, key=lambda tested: tested.p_equal())
    return max(measured, key=lambda tested: tested.p_holds())


def draw_verdicts(
    scored: Sequence[Scored], scales: Callable[[Claim], Sequence[str]], folder: Path
) -> list[Path]:
    """Draw the verdicts, grouped, on one axis of points.

    Args:
        scales: names of the profiles on whose runs a claim is tested.

    Returns:
        The files; none if no claim about scores has data.
    """
    found = [(one, tested) for one in scored if (tested := deciding(one)) is not None]
    if not found:
        return []
    found.sort(key=lambda pair: list(_LOOKS).index(pair[0].verdict))
    plt = pyplot()
    with plt.style.context(STYLE):
        figure, panel = plt.subplots(figsize=(10, 1.2 + 0.46 * len(found)))
        panel.axvline(0, color="0.4", linestyle="--", linewidth=1, zorder=1)
        for place, (one, tested) in enumerate(found):
            _draw(panel, place, one, tested)
        panel.set_yticks(range(len(found)), [_label(*pair, scales) for pair in found], fontsize=7)
        panel.set_ylim(len(found) - 0.5, -0.5)
        panel.set_xlabel("difference in points; |: what the paper claims, at least or at most")
        panel.grid(axis="y", visible=False)
        present = [verdict for verdict in _LOOKS if any(one.verdict == verdict for one, _ in found)]
        handles = [plt.Line2D([], [], color=_LOOKS[v][0], marker=_LOOKS[v][1], label=v) for v in present]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        return save_figure(figure, "verdicts", _TITLE, None, folder)


def _draw(panel: Any, place: int, one: Scored, tested: Tested) -> None:
    assert tested.difference is not None
    colour, marker = _LOOKS[one.verdict]
    panel.errorbar(
        tested.difference.mean,
        place,
        xerr=tested.difference.half_width,
        fmt=marker,
        color=colour,
        markersize=5,
        capsize=2,
        linewidth=1.2,
    )
    for bound in (tested.at_least, tested.at_most):
        if bound:
            panel.plot(bound, place, "|", color="0.2", markersize=11)


def _label(one: Scored, tested: Tested, scales: Callable[[Claim], Sequence[str]]) -> str:
    assert tested.difference is not None
    runs = tested.difference.runs
    by = "accuracy" if one.decided_by == "score" else "probability"
    pair = f"{tested.better} - {tested.worse}"
    where = f"{tested.column or by}, {', '.join(scales(one.claim))}, {runs} seed{'s' if runs > 1 else ''}"
    lines = textwrap.wrap(one.claim.text, _LABEL, max_lines=2, placeholder=" ...")
    return "\n".join(map(figure_text, [*lines, f"{pair}; {where}"]))
