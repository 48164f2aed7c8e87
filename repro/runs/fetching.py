"""Downloads what runs need from the hub: only the files needed, each checked against the hub's own digest."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from repro import hub
from repro.benchmarks.hub_sets import set_repositories
from repro.hub import Repository
from repro.models.loading import repository
from repro.plans.spec import RunSpec

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

_BLOCK = 2**20


def wanted(specs: Iterable[RunSpec]) -> dict[Repository, str]:
    """The repositories behind runs, each with the name of its model or of its family's data."""
    found: dict[Repository, str] = {}
    for spec in specs:
        if spec.model.source == "hub":
            found.setdefault(repository(spec.model), spec.model.name)
    for spec in specs:
        for needed in set_repositories(spec.benchmark):
            found.setdefault(needed, f"{spec.benchmark.family} data")
    return found


@dataclass(frozen=True)
class Listing:
    """The files needed of a repository.

    Attributes:
        commit: what the revision stands for.
        files: by path.
        absent: those of them that are not in the cache in their size.
    """

    repository: Repository
    commit: str
    files: Mapping[str, RepoFile]
    absent: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files.values())

    @property
    def absent_bytes(self) -> int:
        return sum(self.files[path].size for path in self.absent)

    @property
    def folder(self) -> Path:
        """The snapshot in the cache. A mirror may call a pinned commit otherwise, and the cache knows it."""
        if self.commit == self.repository.revision and (found := hub.cached_folder(self.repository)):
            return found
        return hub.cache_folder(self.repository) / "snapshots" / self.commit

    def damaged(self) -> list[str]:
        """Files that are not in the cache, or differ from what the hub says."""
        return [path for path, file in self.files.items() if not _is_whole(self.folder / path, file)]


def listing(needed: Repository) -> Listing:
    """Ask the hub for a repository's files; raises whatever its client raises."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    # A pinned commit is the name of the snapshot, whatever a mirror calls its own.
    pinned = needed.revision is not None and len(needed.revision) == 40
    info = api.repo_info(needed.id, repo_type=needed.kind, revision=needed.revision, timeout=30)
    commit = str(needed.revision if pinned else info.sha)
    tree = api.list_repo_tree(needed.id, repo_type=needed.kind, revision=commit, recursive=True)
    there = {file.path: file for file in tree if isinstance(file, RepoFile)}
    files = {path: there[path] for path in needed.needed(there)}
    if not files:
        raise FileNotFoundError("none of its files is one that is needed")
    found = Listing(needed, commit, files, ())
    absent = tuple(path for path, file in files.items() if _size(found.folder / path) != file.size)
    return replace(found, absent=absent)


def download(found: Listing, note: Callable[[str], None]) -> list[str]:
    """Get what is absent, and check every file against the hub's digest; a damaged one is fetched once more.

    An interrupted download goes on where it stopped.

    Returns:
        The files that are still damaged. Raises whatever the hub's client raises.
    """
    from huggingface_hub import snapshot_download

    needed = found.repository
    damaged = list(found.absent)
    for last in (False, True):
        if damaged:
            # The revision as it is described, so that the cache remembers what a branch stood for.
            snapshot_download(
                needed.id,
                repo_type=needed.kind,
                revision=needed.revision,
                allow_patterns=list(found.files),
            )
        note(f"checking {needed.id}: {len(found.files)} files")
        damaged = found.damaged()
        if not damaged or last:
            break
        note(f"damaged, fetched once more: {', '.join(damaged)}")
        for path in damaged:
            (found.folder / path).resolve().unlink(missing_ok=True)  # what the link in the snapshot leads to
            (found.folder / path).unlink(missing_ok=True)
    return damaged


def free_bytes() -> tuple[Path, int]:
    """The folder of the hub's cache, and what its disk has left."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).expanduser().absolute()
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    return cache, shutil.disk_usage(there).free


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _is_whole(path: Path, file: RepoFile) -> bool:
    """Whether the content is what the hub says: by SHA-256 in LFS, by git's blob id otherwise."""
    digest = hashlib.sha256() if file.lfs else hashlib.sha1(f"blob {file.size}\0".encode())
    try:
        with path.open("rb") as content:
            while block := content.read(_BLOCK):
                digest.update(block)
    except OSError:
        return False
    return digest.hexdigest() == (file.lfs.sha256 if file.lfs else file.blob_id)
