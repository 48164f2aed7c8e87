"""What this project needs of the Hugging Face hub: which files, whether they are in the cache, why not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Literal

# Files of a model beside its weights: tokenizers in all their forms. Never `original/`, and no code.
_SMALL = (
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer*.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "chat_template*",
)
_TOKENIZERS = ("tokenizer.json", "vocab.*", "*.model")

# In the order in which transformers looks for them; the first that is there is loaded.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

# Seconds that the hub has to answer.
_PATIENCE = 5


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, at a commit or a branch.

    Attributes:
        revision: None is the main branch.
        gated: whether its licence must be accepted first.
    """

    kind: Literal["model", "dataset"]
    id: str
    revision: str | None = None
    gated: bool = False

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"

    def needed(self, names: Iterable[str]) -> list[str]:
        """Those of the repository's files that are needed.

        Of a model its configuration, its tokenizer, and the weights in one format, safetensors if they are
        there; of a data set the card, which says which file belongs to which split, and the parquet files.
        """
        names = sorted(names)
        if self.kind == "dataset":
            return [name for name in names if name == "README.md" or name.endswith(".parquet")]
        top = [name for name in names if "/" not in name]
        return _matching(top, _SMALL) + _weights(top)


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _weights(names: list[str]) -> list[str]:
    """The weights that transformers would load: one file, or an index and its parts."""
    for name in _WEIGHTS:
        stem, _, ending = name.rpartition(".")
        if name in names:
            return [name]
        if f"{name}.index.json" in names:
            part = re.compile(rf"{stem}-[0-9]+-of-[0-9]+\.{ending}")
            return [f"{name}.index.json", *(other for other in names if part.fullmatch(other))]
    return []


def cache_folder(repository: Repository) -> Path:
    """Where the client keeps a repository, whether it has it or not."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=repository.id, repo_type=repository.kind)
    return Path(constants.HF_HUB_CACHE).expanduser() / name


def cached_folder(repository: Repository) -> Path | None:
    """The snapshot in the cache, whole or not; None if there is none."""
    folder = cache_folder(repository)
    revision = repository.revision or "main"
    ref = folder / "refs" / revision
    try:
        commit = ref.read_text().strip() if ref.is_file() else revision
    except OSError:
        return None
    for found in (folder / "snapshots" / commit, folder / "snapshots" / revision):
        if found.is_dir():
            return found
    return None


def model_is_cached(repository: Repository) -> bool:
    """Whether a model's configuration, a tokenizer and all its weights are in the cache."""
    folder = cached_folder(repository)
    if folder is None:
        return False
    names = [path.name for path in folder.iterdir() if path.is_file()]  # a broken link is no file
    weights = _weights(names)
    if "config.json" not in names or not _matching(names, _TOKENIZERS) or not weights:
        return False
    if not weights[0].endswith(".index.json"):
        return True
    try:
        parts = json.loads((folder / weights[0]).read_bytes())["weight_map"].values()
        return set(parts) <= set(names)
    except (OSError, ValueError, KeyError, AttributeError):
        return False


@cache
def answers(endpoint: str) -> str | None:
    """None if the hub answers, or why not. Asked once: without a network every other request takes long."""
    import ssl
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return None  # it answers; certificates are the client's matter
        return f"{endpoint} does not answer ({' '.join(str(error).split())[:120]})"
    return None


def offline() -> str | None:
    """Why the hub cannot be asked: HF_HUB_OFFLINE, or it does not answer. None if it can.

    Where it does not answer, this process and those it starts are offline from now on: its client would
    otherwise try for minutes.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    problem = answers(constants.ENDPOINT)
    if problem is not None:
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"
    return problem


def how_to_get(repository: Repository, error: Exception | str) -> str:
    """One line: why a repository is not there, and what to do."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    reason = " ".join(reason.split())[:200].rstrip(".")
    # transformers raises an OSError from the client's own errors.
    kinds = {kind for cause in _causes(error) for kind in type(cause).__mro__}
    access = "run `hf auth login` or set HF_TOKEN"
    gated = f"it is gated: accept its licence at {repository.page}, then {access}"
    if GatedRepoError in kinds:
        return gated
    if RevisionNotFoundError in kinds:
        return f"{repository.page} has no revision {repository.revision}; correct its file in experiments/"
    if RepositoryNotFoundError in kinds:
        return f"there is no {repository.page}, or it is private; correct its id in experiments/, or {access}"
    return f"{reason}; run `repro fetch` where there is a network" + (
        f"; {gated}" if repository.gated else ""
    )


def _causes(error: BaseException | str | None) -> Iterator[BaseException]:
    while isinstance(error, BaseException):
        yield error
        error = error.__cause__ or error.__context__
