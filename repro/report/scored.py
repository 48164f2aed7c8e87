"""How trained rows were scored, in words: with their adapters merged, unmerged, or on a sharded model."""

from __future__ import annotations

from collections import Counter
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
    found: dict[str, list[PlannedRow]] = {}
    for row in rows:
        done = [(spec, result) for spec in row.specs if (result := results[spec.hash]) is not None]
        for way in dict.fromkeys(way for spec, result in done if (way := _way(spec, result))):
            found.setdefault(way, []).append(row)
    usual, *others = sorted(found, key=lambda way: -len(found[way])) or [""]
    return "; ".join([usual, *(f"{way}: {', '.join(_names(found[way], rows))}" for way in others)])


def _names(some: Sequence[PlannedRow], rows: Sequence[PlannedRow]) -> Iterator[str]:
    """The labels of rows; that of their method where these are all of its rows."""
    methods = Counter(row.specs[0].method.label for row in some)
    everywhere = Counter(row.specs[0].method.label for row in rows)
    whole = {method for method in methods if methods[method] == everywhere[method]}
    named = (method if (method := row.specs[0].method.label) in whole else row.label for row in some)
    yield from dict.fromkeys(named)


def _way(spec: RunSpec, result: Result) -> str:
    if not spec.method.trains or spec.trains_base:
        return ""
    if result.environment.strategy == "fsdp":
        return "unmerged on a sharded model"
    return f"merged into {spec.training.precision}" if result.evaluation.merged else "unmerged"
