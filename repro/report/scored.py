"""How trained rows were scored, in words: with their adapters merged, unmerged, or on a sharded model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from repro.plans.plan import PlannedRow
from repro.plans.spec import RunSpec
from repro.runs.result import Result


def scoring_notes(rows: Sequence[PlannedRow], results: Mapping[str, Result | None]) -> Iterator[str]:
    """One sentence for the blocks that were scored in the same way, and within a block the rows that differ.

    Rows without an adapter, trained as a whole or not at all, have nothing to merge and are left out.
    """
    blocks: dict[str, list[str]] = {}
    for block in dict.fromkeys(row.block for row in rows):
        words = _words([row for row in rows if row.block == block], results)
        if words:
            blocks.setdefault(words, []).append(block)
    for words, names in blocks.items():
        yield f"Scored {words}." if len(blocks) == 1 else f"{', '.join(names)}: scored {words}."


def _words(rows: Sequence[PlannedRow], results: Mapping[str, Result | None]) -> str:
    labels: dict[str, list[str]] = {}
    for row in rows:
        done = [(spec, result) for spec in row.specs if (result := results[spec.hash]) is not None]
        for way in dict.fromkeys(way for spec, result in done if (way := _way(spec, result))):
            labels.setdefault(way, []).append(row.label)
    usual, *others = sorted(labels, key=lambda way: -len(labels[way])) or [""]
    return "; ".join([usual, *(f"{', '.join(labels[way])} {way}" for way in others)])


def _way(spec: RunSpec, result: Result) -> str:
    if not spec.method.trains or spec.trains_base:
        return ""
    if result.environment.strategy == "fsdp":
        return "unmerged on a sharded model"
    return f"merged into {spec.training.precision}" if result.evaluation.merged else "unmerged"
