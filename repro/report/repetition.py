"""What a repetition of a run shows, as text."""

from __future__ import annotations

from repro.analysis.rerun_comparison import Repetition

_WORDS = {
    (True, True): "identical",
    (False, True): "not identical, within the tolerance for other hardware or versions",
    (False, False): "NOT the same",
}


def describe_repetition(repetition: Repetition) -> str:
    """The verdict, the differences of every column and of the losses, and what the environments differ in."""
    identical, tolerated = repetition.identical, repetition.within_tolerance
    lines = [_WORDS[identical, tolerated], ""]
    lines += [
        "| score | file | here | items that changed | tolerated elsewhere |",
        "|---|---:|---:|---:|---:|",
    ]
    for c in repetition.columns:
        values = ["-" if value is None else f"{value:.4f}" for value in (c.before, c.after)]
        lines.append(f"| {c.column} | {' | '.join(values)} | {c.changed} of {c.items} | ± {c.allowed:.2f} |")
    lines.append("")
    if repetition.first_loss is None:
        lines.append("losses: the run does not train")
    else:
        lines.append(
            f"losses: relative difference {repetition.first_loss:.1e} at the first step (elsewhere "
            f"tolerated: {repetition.allowed_loss:.0e}), at most {repetition.largest_loss:.1e} at any"
        )
    for name, (before, after) in repetition.contract.items():
        lines.append(f"must be equal anywhere: {name}: {before} in the file, {after} here")
    for name, (before, after) in repetition.environment.items():
        lines.append(f"environments differ: {name}: {before} in the file, {after} here")
    if not repetition.environment:
        lines.append("same hardware and versions: only an identical run is accepted")
    return "\n".join(lines)
