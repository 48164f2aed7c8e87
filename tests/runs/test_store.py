"""The store: whole files or none, and clear words about damaged ones."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from repro.config import ConfigError
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.result import Environment, Failure
from repro.runs.store import RunBusy, Store


@pytest.fixture
def spec() -> RunSpec:
    return expand(load_experiment("table1"), load_profile("smoke")).rows[0].specs[0]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def _failure(spec: RunSpec, attempts: int = 1) -> Failure:
    environment = Environment(
        commit=None, dirty=None, python="3", platform="p", hardware="h", threads=1, packages={}
    )
    return Failure(
        hash=spec.hash, slug=spec.slug, error="ValueError: no", traceback="", attempts=attempts, when="now",
        environment=environment,
    )  # fmt: skip


def test_an_untouched_store_has_nothing_and_reading_makes_nothing(store: Store, spec: RunSpec) -> None:
    assert store.result(spec) is None
    assert store.failure(spec) is None
    assert list(store.folder.iterdir()) == []


def test_predictions_come_back_as_they_were(store: Store, spec: RunSpec) -> None:
    predictions = [
        {"task": "boolq", "id": "é/1", "gold": 0, "log_likelihoods": [-1.5, -2.0]},
        {"text": "a\nb"},
    ]
    store.write_predictions(spec, predictions)
    assert store.predictions(spec) == predictions


@pytest.mark.parametrize("damage", [b"", b"\x1f\x8b\x08broken", b"not gzip"])
def test_damaged_predictions_say_which_file_and_what_to_do(
    store: Store, spec: RunSpec, damage: bytes
) -> None:
    store.write_predictions(spec, [{"id": 1}])
    path = store.directory(spec) / "predictions.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-9] if damage == b"" else damage)
    with pytest.raises(
        ConfigError, match=r"predictions.jsonl.gz: cannot be read .*delete .* to run it again"
    ):
        store.predictions(spec)


@pytest.mark.parametrize("content", ["", "{", '{"hash": "x"}'])
def test_a_damaged_result_is_named_and_never_counts(store: Store, spec: RunSpec, content: str) -> None:
    path = store.directory(spec) / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(
        ConfigError, match=r"result.json: not a valid result .*move or delete .* to run it again"
    ):
        store.result(spec)


def test_a_failed_write_leaves_the_old_file_and_no_other(
    store: Store, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_failure(spec, _failure(spec, attempts=1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write_failure(spec, _failure(spec, attempts=2))
    assert store.failure(spec).attempts == 1
    assert [path.name for path in store.directory(spec).iterdir()] == ["failure.json"]


def _hold(store: Store, spec: RunSpec) -> None:
    with store.claimed(spec):
        (store.folder / "held").touch()
        time.sleep(60)


def test_a_run_is_held_by_one_process_and_freed_by_its_death(store: Store, spec: RunSpec) -> None:
    other = multiprocessing.get_context("fork").Process(target=_hold, args=(store, spec))
    other.start()
    try:
        deadline = time.monotonic() + 10
        while not (store.folder / "held").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(RunBusy, match="another process"), store.claimed(spec):
            pass
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.join()
    with store.claimed(spec):
        pass
