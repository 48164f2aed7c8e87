"""Records from the Hugging Face hub: the eight public sets from which LLM-Adapters rendered its files."""

from __future__ import annotations

from dataclasses import dataclass

from repro.benchmarks.commonsense.columns import contents
from repro.benchmarks.commonsense.records import Record, Split, build_records, get_task
from repro.benchmarks.hub_sets import hub_rows, hub_sets


@dataclass(frozen=True)
class HubSource:
    """The public sets that `experiments/data/commonsense.yaml` describes."""

    note = "the public sets that commonsense_170k and its test files were rendered from, from the hub"

    def load(self, task: str, split: Split) -> list[Record]:
        name = get_task(task).name
        source = f"{hub_sets('commonsense')[name].repository}, {split}"
        rows = (row for part in hub_rows("commonsense", name, split).values() for row in part)
        return build_records(task, split, (row[:3] for row in contents(task, rows, source)), source)
