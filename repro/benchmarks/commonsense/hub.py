"""Records from the Hugging Face hub: the eight public sets from which LLM-Adapters rendered its files.

The merged training file (zwhe99/commonsense_170k) does not say which task a row belongs to, and SIQA, ARC and
OBQA share one template. The separate sets do, and their sizes, which are checked, add up to the same 170,420.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from repro.benchmarks.commonsense.columns import contents
from repro.benchmarks.commonsense.records import Record, Split, build_records, get_task
from repro.training.data import DataError, load_from_hub


@dataclass(frozen=True)
class HubSet:
    """One data set on the hub.

    Args:
        path: its id.
        configurations: the training set is all of them in this order; the test set is from the first.
        test_split: the split that upstream calls test.
        revision: a branch or commit; None is the main branch.
    """

    path: str
    configurations: tuple[str | None, ...] = (None,)
    test_split: str = "validation"
    revision: str | None = None


# WinoGrande's 63,238 training items are those of its six training sizes, with repeats:
# 40,398 + 10,234 + 9,248 + 2,558 + 640 + 160.
_WINOGRANDE = tuple(f"winogrande_{size}" for size in ("xl", "l", "debiased", "m", "s", "xs"))

HUB_SETS: dict[str, HubSet] = {
    "boolq": HubSet("google/boolq"),
    # The main branch is a loading script, which `datasets` 4 and later do not run.
    "piqa": HubSet("ybisk/piqa", revision="refs/convert/parquet"),
    "social_i_qa": HubSet("lighteval/siqa"),
    "hellaswag": HubSet("Rowan/hellaswag"),
    "winogrande": HubSet("allenai/winogrande", _WINOGRANDE),
    "ARC-Easy": HubSet("allenai/ai2_arc", ("ARC-Easy",), test_split="test"),
    "ARC-Challenge": HubSet("allenai/ai2_arc", ("ARC-Challenge",), test_split="test"),
    "openbookqa": HubSet("allenai/openbookqa", ("main",), test_split="test"),
}


@dataclass(frozen=True)
class HubSource:
    """The public sets of `HUB_SETS`.

    Args:
        revisions: branch or commit by task, if it differs from `HUB_SETS`.
    """

    revisions: Mapping[str, str] = field(default_factory=dict)
    note = "the public sets that commonsense_170k and its test files were rendered from, from the hub"

    def load(self, task: str, split: Split) -> list[Record]:
        expected = get_task(task).train_size if split == "train" else get_task(task).test_size
        rows = self._rows(task, split)
        if len(rows) != expected:
            raise DataError(
                f"{HUB_SETS[task].path} has {len(rows)} {split} rows, the paper's has {expected}; "
                "pin the revision that has as many"
            )
        source = f"{HUB_SETS[task].path}, {split}"
        return build_records(task, split, (row[:3] for row in contents(task, rows, source)), source)

    def _rows(self, task: str, split: Split) -> list[Mapping[str, Any]]:
        hub_set = HUB_SETS[task]
        revision = self.revisions.get(task, hub_set.revision)
        configurations = hub_set.configurations if split == "train" else hub_set.configurations[:1]
        name = "train" if split == "train" else hub_set.test_split
        parts = (
            load_from_hub(hub_set.path, configuration, name, revision) for configuration in configurations
        )
        return [row for part in parts for row in part]
