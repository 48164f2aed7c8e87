"""What the machine lacks is said before a run starts, and leaves no failure; W&B fails no run."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from lightning.pytorch.loggers import WandbLogger

from repro.benchmarks.hub_sets import hub_sets
from repro.cli import main
from repro.cli.shared import execute_here
from repro.config import ConfigError
from repro.models.loading import check_available
from repro.models.spec import ModelSpec, load_model_spec
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.runs import preflight, wandb_log
from repro.runs.bases import BaseModels
from repro.runs.runner import execute
from repro.runs.store import Store
from repro.runs.wandb_log import WandbLog
from tests.fake_hub import FakeRepository, in_cache, served

RUN = ["run", "table1", "--profile", "smoke", "--rows", "lora"]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("repro.paths.RESULTS", tmp_path / "results")
    # Nobody is logged in, whoever runs the tests.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    return tmp_path / "results"


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"WANDB_MODE": "offlien"}, "WANDB_MODE is 'offlien'; allowed: online, offline, disabled"),
        ({"WANDB_MODE": ""}, "WANDB_MODE is ''; allowed"),
        ({"REPRO_DATA_DIR": "/nowhere"}, "REPRO_DATA_DIR is '/nowhere': No such file or directory"),
    ],
)
def test_a_run_does_not_start(
    variables: dict[str, str],
    reason: str,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(RUN) == 2
    assert capsys.readouterr().err.startswith(f"repro: {reason}")
    assert not list(results.rglob("failure.json"))


class _Wandb:
    """In the place of the package."""

    class setup:
        class settings:
            base_url = "http://127.0.0.1:9"

    def __init__(self, known: bool) -> None:
        self.login = lambda prompt: known


@pytest.mark.parametrize(
    ("known", "reason"), [(False, "nobody is logged in at http"), (True, "127.0.0.1:9 does not answer")]
)
def test_online_wants_a_login_and_a_server(known: bool, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    if not known:
        monkeypatch.setattr(preflight, "_check_server", lambda mode, server: None)
    monkeypatch.setitem(sys.modules, "wandb", _Wandb(known))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"\A[^\n]*{reason}[^\n]*WANDB_MODE=offline, or use --no-wandb\Z"):
        preflight.check_wandb()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source": "hub", "checkpoint": "nobody/nothing"}, "nobody/nothing cannot be loaded"),
        ({"source": "hub", "checkpoint": "nobody/nothing", "gated": True}, "it is gated"),
        ({"source": "package", "checkpoint": "no-such-package"}, "which is not installed"),
    ],
)
def test_a_model_that_is_not_there_is_said_without_loading_it(
    changes: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*arguments: object, **settings: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    monkeypatch.setattr("repro.hub.answers", lambda endpoint: None)
    spec: ModelSpec = load_model_spec("tiny-llama").model_copy(update=changes)
    with pytest.raises(ConfigError, match=reason):
        check_available(spec)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


SMALL = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"w"}
INDEX = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
PART = "model-0000{}-of-00002.safetensors"


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        (SMALL, True),
        ({"config.json": b"{}", "spm.model": b"t", "pytorch_model.bin": b"w"}, True),
        ({"config.json": b"{}", "tokenizer.json": b"{}"}, False),
        ({"config.json": b"{}", "model.safetensors": b"w"}, False),
        (
            {
                "config.json": b"{}",
                "tokenizer.model": b"",
                "model.safetensors.index.json": INDEX,
                PART.format(1): b"w",
                PART.format(2): b"w",
            },
            True,
        ),
        (
            {
                "config.json": b"{}",
                "tokenizer.model": b"",
                "model.safetensors.index.json": INDEX,
                PART.format(1): b"w",
            },
            False,
        ),
    ],
)
def test_a_model_in_the_cache_is_whole_or_not_there(
    files: dict[str, bytes], whole: bool, cache: Path
) -> None:
    in_cache(cache, "some/model", files)
    spec = load_model_spec("tiny-llama").model_copy(update={"source": "hub", "checkpoint": "some/model"})
    if whole:
        check_available(spec)
    else:
        with pytest.raises(ConfigError, match=r"is not whole in .*HF_HUB_OFFLINE is set; run `repro fetch`"):
            check_available(spec)


def test_a_hub_that_does_not_answer_is_asked_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    spec = load_model_spec("llama-7b")
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"127.0.0.1:9 does not answer|HF_HUB_OFFLINE is set"):
            check_available(spec)
    assert time.monotonic() - started < 5
    assert huggingface_hub.constants.is_offline_mode()


def test_a_gated_and_a_missing_model_say_how_to_get_them(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = load_model_spec("llama2-7b")
    repositories = {
        gated.checkpoint: FakeRepository(SMALL, names=(str(gated.revision),), gated=True),
        "yahma/llama-13b-hf": FakeRepository(SMALL),
    }
    with served(repositories, monkeypatch):
        page = f"https://huggingface.co/{gated.checkpoint}"
        with pytest.raises(ConfigError, match=f"accept its licence at {page}, then run `hf auth login`"):
            check_available(gated)
        missing = load_model_spec("llama-7b")
        with pytest.raises(ConfigError, match=f"there is no https://huggingface.co/{missing.checkpoint}"):
            check_available(missing)
        with pytest.raises(ConfigError, match="has no revision other; correct its file"):
            check_available(load_model_spec("llama-13b").model_copy(update={"revision": "other"}))


def test_runs_whose_model_is_not_here_are_not_started_and_their_neighbours_run(
    results: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The smoke table, with one model of its two from the hub."""
    smoke = load_profile("smoke")
    plan = expand(load_experiment("table1"), smoke).only(["lora", "base"])
    there, absent = (row.specs[0] for row in plan.rows)
    model = absent.model.model_copy(update={"name": "absent", "source": "hub", "checkpoint": "x/y"})
    absent = absent.model_copy(update={"model": model})
    store = Store(results / "runs")
    options = argparse.Namespace(no_wandb=True)
    problems = execute_here(smoke, [absent, there], store, options, "table1")
    assert len(problems) == 1
    assert problems[0].startswith("not started: model absent: x/y cannot be loaded: it is not whole in ")
    assert store.is_done(there)
    assert not store.is_done(absent) and store.failure(absent) is None


def test_runs_whose_data_are_not_here_are_not_started(cache: Path) -> None:
    plan = expand(load_experiment("table2"), load_profile("smoke"), data="hub").only(["lora"])
    specs = list(plan.runs.values())
    there, problems = preflight.ready(specs)
    assert there == []
    assert len(problems) == 1 and problems[0].startswith("data nyu-mll/glue: not in the cache, and HF_HUB_")
    revision = hub_sets("glue")["rte"].revision
    in_cache(cache, "datasets/nyu-mll/glue", {"README.md": b""}, name=str(revision))
    assert preflight.ready(specs) == (specs, [])


@pytest.mark.parametrize("verb", [["run"], ["task"]])
def test_without_a_model_nothing_fails_but_the_exit_status(
    verb: list[str], results: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--rows", "dual_lora-r16"] if verb == ["run"] else ["0"]
    assert main([*verb, "table1", *options, "--profile", "paper", "--no-wandb"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("not started: model ")]
    assert len(lines) == (4 if verb == ["run"] else 1)
    assert "it is gated: accept its licence" in lines[-1] or verb == ["task"]
    assert not list(results.rglob("failure.json"))


def test_a_model_in_the_cache_is_loaded_without_asking_a_hub_that_does_not_answer(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    in_cache(cache, "some/model", SMALL)
    check_available(
        load_model_spec("tiny-llama").model_copy(update={"source": "hub", "checkpoint": "some/model"})
    )
    assert huggingface_hub.constants.is_offline_mode()


class _Logger:
    """A logger of which one method raises or hangs."""

    def __init__(self, fault: str, what: Callable[[], None]) -> None:
        self._fault, self._what = fault, what
        self.experiment = self.summary = self
        self._do("init")

    def _do(self, name: str) -> None:
        if name == self._fault:
            self._what()

    def log_metrics(self, metrics: object, step: object) -> None:
        self._do("log")

    def update(self, values: object) -> None:
        self._do("summary")

    def finish(self, exit_code: int) -> None:
        self._do("finish")


def _raise() -> None:
    raise RuntimeError("no\nserver")


def _exit() -> None:
    raise SystemExit(1)


def _hang() -> None:
    time.sleep(30)


@pytest.mark.parametrize("fault", ["init", "log", "summary", "finish"])
@pytest.mark.parametrize(
    ("what", "problem"),
    [(_raise, "RuntimeError: no server"), (_exit, "SystemExit: 1"), (_hang, "it did not end within 0.2 s")],
)
def test_a_log_that_fails_or_hangs_is_a_line(
    fault: str, what: Callable[[], None], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_log, "_PATIENCE", 0.2)
    log = WandbLog(lambda: _Logger(fault, what))  # type: ignore[arg-type, return-value]
    log.log_metrics({"loss": 1.0}, 1)
    log.summarise({"score": 1.0})
    log.close(failed=False)
    assert log.problem == problem


def test_a_log_that_cannot_start_is_a_warning_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(**settings: object) -> WandbLogger:
        raise OSError("no room")

    monkeypatch.setattr("wandb.init", start)
    experiment, profile = load_experiment("table1"), load_profile("smoke")
    spec = expand(experiment, profile).only(["lora"]).rows[0].specs[0]
    execution = profile.execution_for("commonsense", "tiny-llama")
    assert execution.wandb
    result = execute(spec, store=Store(tmp_path), execution=execution, bases=BaseModels(), group="test")
    assert result.warnings[-1] == "Weights & Biases has not all of this run: OSError: no room"


def test_what_a_person_has_to_mend_is_tried_again_by_the_same_command(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*arguments: object) -> None:
        raise ConfigError("the hub cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr("repro.runs.bases.load_model", unreachable)
        assert main([*RUN, "--no-wandb"]) == 1
    assert "the hub cannot be reached (attempt 1); the same command" in capsys.readouterr().err
    assert main([*RUN, "--no-wandb"]) == 0
