"""The hub's cache on disk, in the layout of `huggingface_hub`: what a download would have left."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

# Of a repository whose revision is a branch.
_COMMIT = "0" * 40


def snapshot_folder(
    hub: Path, kind: Literal["model", "dataset"], repository: str, revision: str | None
) -> Path:
    """The folder, made if it is not there, in which a repository's files of a revision lie.

    Args:
        hub: the cache, which is `hub` in the folder that HF_HOME names.
        revision: commit or branch; None is the main branch.
    """
    place = hub / f"{kind}s--{repository.replace('/', '--')}"
    revision = revision or "main"
    commit = revision if re.fullmatch("[0-9a-f]{40}", revision) else _COMMIT
    if commit != revision:
        reference = place / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit, encoding="utf-8")
    folder = place / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    return folder
