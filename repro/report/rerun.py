"""The comparison of a run with its rerun, as text."""

from __future__ import annotations

from repro.analysis.rerun_comparison import RerunComparison
from repro.text import one_line

_WORDS = {
    (True, True): "identical",
    (False, True): "not identical, within the tolerance for other hardware or versions",
    (False, False): "NOT the same",
}


def describe_rerun(rerun: RerunComparison) -> str:
    """The verdict, the differences of columns and losses, and the differences of the environments."""
    identical, tolerated = rerun.identical, rerun.within_tolerance
    lines = [_WORDS[identical, tolerated], ""]
    lines += [
        "| score | file | rerun | changed items | tolerance on other hardware or versions |",
        "|---|---:|---:|---:|---:|",
    ]
    for c in rerun.columns:
        values = ["-" if value is None else f"{value:.4f}" for value in (c.before, c.after)]
        lines.append(f"| {c.column} | {' | '.join(values)} | {c.changed} of {c.items} | ± {c.allowed:.2f} |")
    lines.append("")
    if rerun.first_loss is None:
        lines.append("losses: the run does not train")
    else:
        lines.append(
            f"losses: relative difference {rerun.first_loss:.1e} at the first step (tolerance on other "
            f"hardware or versions: {rerun.allowed_loss:.0e}), at most {rerun.largest_loss:.1e} at any step"
        )
    for name, (before, after) in rerun.contract.items():
        lines.append(f"must always be equal: {name}: {before} in the file, {after} in the rerun")
    for name, (before, after) in rerun.environment.items():
        lines.append(f"environments differ: {name}: {before} in the file, {after} in the rerun")
    if not rerun.environment:
        lines.append("same hardware and versions: only an identical run is accepted")
    return "\n".join(map(one_line, lines))
