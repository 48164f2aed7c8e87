"""Random bytes and random trees for every reader: an error in one line or a value, and nothing written."""

from __future__ import annotations

import copy
import gzip
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from repro.benchmarks.commonsense.sources import LocalSource as CommonsenseData
from repro.benchmarks.e2e.sources import LocalSource as E2EData
from repro.benchmarks.glue.records import get_task
from repro.benchmarks.glue.sources import LocalSource as GlueData
from repro.cli import main
from repro.config import ConfigError
from repro.merging.adapter import read_config
from repro.models.saved import read_mapping, read_tensors
from repro.models.spec import load_model_spec
from repro.paths import EXPERIMENTS, REFERENCE
from repro.plans.experiment import load_experiment
from repro.plans.profile import load_profile
from repro.plans.settings import load_preset
from repro.runs.checkpointing import CHECKPOINT_VERSION, Checkpoints
from repro.runs.known_unmerged import known_unmerged
from repro.runs.measurements import read_speed, speed_files
from repro.runs.received import read_result
from repro.runs.rescoring import rescored
from repro.runs.result import Failure
from repro.runs.store import UNMERGED, Store
from repro.text import one_line
from repro.training.token_cache import cached_arrays, joined
from tests.runs.unmerged import unmerged_as

RUN = next(REFERENCE.glob("runs/commonsense--*--dual_lora--seed0--*/diagnostics.json")).parent
BENCH = speed_files(REFERENCE)[0]
SPEC, RESULT = read_result(RUN / "result.json", "") or pytest.fail("no committed result")
WEIGHTS = {"A": torch.ones(2, 3), "B": torch.zeros(3, 2)}
ASKED = (
    "Please answer the following question with true or false, question: is it {}?"
    "\n\nAnswer format: true/false"
)
BOOLQ = [
    {"instruction": ASKED.format(i), "input": "", "output": f"the correct answer is {a}", "answer": a}
    for i, a in enumerate(["true", "false"] * 3)
]


class Reader(NamedTuple):
    """A file below a folder, valid content of it, and what reads it.

    `tree` is the content's tree where it has one, and `dump` writes a tree.
    """

    file: str
    content: bytes
    read: Callable[[Path], object]
    tree: Any = None
    dump: Callable[[Any], str] = json.dumps


def _yaml(path: str, read: Callable[[Path], object]) -> Reader:
    content = (EXPERIMENTS / path).read_bytes()
    return Reader(path, content, read, yaml.safe_load(content), yaml.safe_dump)


def _json(file: str, tree: Any, read: Callable[[Path], object]) -> Reader:
    return Reader(file, json.dumps(tree).encode(), read, tree)


def _parquet() -> bytes:
    table = pa.table({"sentence": ["a film", "another"], "label": [0, 1], "idx": [0, 1]})
    parquet.write_table(table, written := io.BytesIO())
    return written.getvalue()


def _checkpoint() -> bytes:
    torch.save(
        {"run": "run", "version": CHECKPOINT_VERSION, "state_dict": WEIGHTS, "validation_losses": []},
        written := io.BytesIO(),
    )
    return written.getvalue()


PREDICTIONS = f"{SPEC.slug}/predictions.jsonl.gz"
LINES = [
    {"task": task, "id": f"{task}/0", "gold": 0, "log_likelihoods": [-1.5, -2.0], "normalisers": [4.0, 5.0]}
    for task in SPEC.benchmark.columns
]

READERS = {
    "experiment": _yaml("table1.yaml", lambda folder: load_experiment("table1", folder)),
    "profile": _yaml("profiles/smoke.yaml", lambda folder: load_profile("smoke", folder)),
    "preset": _yaml(
        "presets/lora-scripts.yaml", lambda folder: load_preset("lora-scripts", "roberta-base", folder)
    ),
    "model": _yaml(
        "models/tiny-llama.yaml", lambda folder: load_model_spec.__wrapped__("tiny-llama", folder)
    ),
    "result": _json(
        "result.json",
        json.loads((RUN / "result.json").read_text()),
        lambda folder: read_result(folder / "result.json", "move it"),
    ),
    "predictions": Reader(
        PREDICTIONS,
        gzip.compress("".join(f"{json.dumps(line)}\n" for line in LINES).encode(), mtime=0),
        lambda folder: rescored(SPEC, RESULT, Store(folder), lambda line: None),
    ),
    "diagnostics": Reader(
        f"{SPEC.slug}/diagnostics.json",
        (RUN / "diagnostics.json").read_bytes(),
        lambda folder: Store(folder).diagnostics(SPEC),
        json.loads((RUN / "diagnostics.json").read_text()),
    ),
    "test without merging": _json(
        f"{SPEC.slug}/{UNMERGED}",
        unmerged_as(RESULT).model_dump(mode="json"),
        lambda folder: known_unmerged(SPEC, RESULT, Store(folder)),
    ),
    "failure": _json(
        f"{SPEC.slug}/failure.json",
        Failure(
            hash=SPEC.hash,
            slug=SPEC.slug,
            error="no",
            traceback="",
            attempts=1,
            when="now",
            environment=RESULT.environment,
        ).model_dump(mode="json"),
        lambda folder: Store(folder).failure(SPEC),
    ),
    "benchmark": Reader(
        BENCH.name,
        BENCH.read_bytes(),
        lambda folder: read_speed(folder / BENCH.name),
        json.loads(BENCH.read_text()),
    ),
    "adapter weights": Reader(
        "adapter_model.safetensors",
        save(WEIGHTS),
        lambda folder: read_tensors(folder / "adapter_model.safetensors", WEIGHTS),
    ),
    "adapter settings": _json(
        "adapter_config.json", {"r": 4}, lambda folder: read_mapping(folder / "adapter_config.json")
    ),
    "adapter to merge": _json(
        "adapter_config.json",
        {"peft_type": "LORA", "r": 4, "target_modules": ["q"], "init_lora_weights": True, "bias": "none"},
        lambda folder: read_config(folder / "adapter_config.json"),
    ),
    "commonsense data": _json(
        "commonsense/llm_adapters/boolq/train.json",
        BOOLQ,
        lambda folder: CommonsenseData(folder).load("boolq", "train"),
    ),
    "packed commonsense data": Reader(
        "commonsense/llm_adapters/boolq/test.json.gz",
        gzip.compress(json.dumps(BOOLQ).encode(), mtime=0),
        lambda folder: CommonsenseData(folder).load("boolq", "test"),
    ),
    "GLUE data": Reader(
        "glue/sst2/train.parquet", _parquet(), lambda folder: GlueData(folder).load(get_task("sst2"), "train")
    ),
    "E2E data": Reader(
        "e2e/trainset.csv",
        b'mr,ref\n"name[The Inn], food[Italian]",The Inn is Italian.\n"name[B]","B, a ""pub""."\n',
        lambda folder: E2EData(folder).load("train"),
    ),
}
WITH_TREES = [name for name, reader in READERS.items() if reader.tree is not None]
DRAWS = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,  # the same files each time: a failure can be repeated
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def other_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Random bytes, or the content with a piece replaced."""
    piece = draw(st.binary(max_size=40))
    if draw(st.integers(0, 3)) == 0:
        return piece
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(len(content), start + 40)) | st.just(len(content)))
    return content[:start] + piece + content[end:]


@st.composite
def other_tree(draw: st.DrawFn, tree: Any) -> Any:
    """The tree with one value replaced or removed, or a random one."""
    if draw(st.integers(0, 5)) == 0:
        return draw(VALUES)
    tree = copy.deepcopy(tree)
    place = tree
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not keys:
            return tree
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or draw(st.booleans()):
            break
        place = inner
    if draw(st.integers(0, 2)) == 0:
        del place[key]
    else:
        place[key] = draw(VALUES)
    return tree


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _try(reader: Reader, content: bytes, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    file = folder / reader.file
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    before = _files(folder)
    try:
        reader.read(folder)
    except ConfigError as error:
        for line in str(error).split("\n"):
            assert line.startswith(str(file)) and line == one_line(line), line
    assert _files(folder) == before


@pytest.mark.parametrize("name", READERS)
def test_a_valid_file_is_read(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    file = tmp_path / reader.file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(reader.content)
    if name == "predictions":  # made up, so they are not those of the run
        with pytest.raises(ConfigError, match="but the result has"):
            reader.read(tmp_path)
    else:
        assert reader.read(tmp_path) is not None


@pytest.mark.parametrize("name", READERS)
@DRAWS
@given(data=st.data())
def test_other_bytes_are_read_or_refused_in_one_line(name: str, data: st.DataObject, tmp_path: Path) -> None:
    reader = READERS[name]
    _try(reader, data.draw(other_bytes(reader.content)), tmp_path / "files")


@pytest.mark.parametrize("name", WITH_TREES)
@DRAWS
@given(data=st.data())
def test_other_trees_are_read_or_refused_in_one_line(name: str, data: st.DataObject, tmp_path: Path) -> None:
    reader = READERS[name]
    tree = data.draw(other_tree(reader.tree))
    _try(reader, reader.dump(tree).encode(errors="surrogatepass"), tmp_path / "files")


@DRAWS
@given(data=st.data())
def test_other_lines_of_predictions_are_refused_in_one_line(data: st.DataObject, tmp_path: Path) -> None:
    lines = [json.dumps(data.draw(other_tree(line))) for line in LINES]
    packed = gzip.compress("\n".join(lines).encode(), mtime=0)
    _try(READERS["predictions"], packed, tmp_path / "files")


@DRAWS
@given(content=other_bytes(_checkpoint()))
def test_other_checkpoints_start_the_run_over_with_a_line(content: bytes, tmp_path: Path) -> None:
    notes: list[str] = []
    checkpoints = Checkpoints(tmp_path / "run", "run")
    checkpoints.folder.mkdir(exist_ok=True)
    checkpoints.latest.write_bytes(content)
    found = checkpoints.going_on_from(WEIGHTS, keeps_best=False, note=notes.append)
    assert (found is None) == (len(notes) == 1)
    assert all("\n" not in note for note in notes)
    assert found is None or content == _checkpoint()


@DRAWS
@given(data=st.data())
def test_other_token_caches_are_made_again(data: st.DataObject, token_cache: Path) -> None:
    arrays, others = joined([(1, 2, 3), (4, 5)]), set(token_cache.glob("**/*.tokens"))
    made = cached_arrays(["fuzz"], lambda: arrays)
    assert {name: list(array) for name, array in made.items()} == {"ids": [1, 2, 3, 4, 5], "ends": [3, 5]}
    (file,) = set(token_cache.glob("**/*.tokens")) - others
    content = file.read_bytes()
    file.write_bytes(data.draw(other_bytes(content)))
    again = cached_arrays(["fuzz"], lambda: arrays)
    assert {name: list(array) for name, array in again.items()} == {"ids": [1, 2, 3, 4, 5], "ends": [3, 5]}
    assert file.read_bytes() == content
    file.unlink()


@DRAWS
@given(content=other_bytes(READERS["result"].content))
def test_running_again_from_any_file_ends_with_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line: status 2, and nothing written."""
    file = tmp_path / "result.json"
    file.write_bytes(content)
    if _is_result(file):
        return
    assert main(["run", "--from", str(file), "--no-wandb"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("repro: ") and said.err.count("\n") == 1 and said.err.endswith("\n")
    assert _files(tmp_path) == {"result.json": content}


def _is_result(file: Path) -> bool:
    try:
        return read_result(file, "") is not None
    except ConfigError:
        return False
