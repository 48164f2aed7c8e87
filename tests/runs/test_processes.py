"""Two processes on one run, over gloo: what a single one gives, bit for bit, and no process left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

import repro
from repro.config import ConfigError
from repro.methods.prefix import Prefix
from repro.plans.execution import Execution, check_execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.interruption import Interrupted, on_stop_signal, stop
from repro.runs.job import Report
from repro.runs.local import run_here
from repro.runs.processes import run_in_processes
from repro.runs.progress import Watch
from repro.runs.result import Result
from repro.runs.runner import execute
from repro.runs.store import Store
from tests.hub_cache import write_checkpoint

sys.path.insert(0, str(Path(__file__).parent))  # the processes inherit it

from jobs_for_processes import work_off

# 28 examples in batches of 8 and passes of 4: in the last step one process has nothing left to do. Several
# test batches, in an odd number.
ALONE = Execution(
    accelerator="cpu",
    micro_batch_size=4,
    evaluation_tokens=2000,
    checkpoint_minutes=0,
    wandb=False,
    diagnostics=2,
)
DDP = ALONE.model_copy(update={"devices": 2})
NODES = DDP.model_copy(update={"nodes": 2})
FSDP = DDP.model_copy(update={"strategy": "fsdp"})


def _spec(experiment: str, row: str, **method: Any) -> RunSpec:
    rows = {r.id: r for r in expand(load_experiment(experiment), load_profile("smoke")).rows}
    spec = rows[row].specs[0]
    content = spec.model_dump(exclude={"version"}) | {"method": spec.method.model_dump() | method}
    if experiment == "table1":  # two of eight tasks, as many examples to train on
        content["benchmark"] |= {"tasks": ["boolq", "piqa"], "train_per_task": 16}
    return RunSpec.model_validate(content)


SPECS = {
    "dual_lora": _spec("table1", "dual_lora"),
    "lora with dropout": _spec("table1", "lora", dropout=0.1),
    "hira": _spec("table1", "hira"),
    "dora": _spec("table1", "dora"),
    "fft": _spec("table1", "fft"),
    "galore": _spec("table2", "galore"),
    "encoder": _spec("table2", "dual_lora"),
    "generation": _spec("table4", "dual_lora"),
}
CASES = [
    ("dual_lora", DDP),
    ("dual_lora", FSDP),
    ("dual_lora", FSDP.model_copy(update={"gradient_checkpointing": True})),
    ("lora with dropout", DDP),
    ("lora with dropout", FSDP),
    ("hira", FSDP),
    ("dora", FSDP),
    ("galore", DDP),
    ("encoder", DDP),
    ("encoder", FSDP),
    ("generation", FSDP),
]

# With a checkpoint in safetensors files, which is not loaded but mapped.
MAPPED = ["dual_lora", "dora"]


def _id(case: tuple[str, Execution]) -> str:
    name, execution = case
    return f"{name} {execution.strategy}{' checkpointing' * execution.gradient_checkpointing}"


def _execute(spec: RunSpec, folder: Path, execution: Execution, report: Report = lambda *_: None) -> Result:
    return execute(
        spec, store=Store(folder), execution=execution, bases=BaseModels(), group="test", report=report
    )


@pytest.fixture(scope="module")
def single_threaded() -> Any:
    """So that a product is summed in the same order in one process and in several, which share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(
    single_threaded: None, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Store, Result]]:
    """(name of a spec) -> its run in a single process."""
    stores: dict[str, Store] = {}

    def run(name: str) -> tuple[Store, Result]:
        if name not in stores:
            stores[name] = Store(tmp_path_factory.mktemp("alone"))
            _execute(SPECS[name], stores[name].folder, ALONE)
        result = stores[name].result(SPECS[name])
        assert result is not None
        return stores[name], result

    return run


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunSpec]]:
    """The same runs, with the model in the hub's cache."""
    home = tmp_path_factory.mktemp("home")
    model = write_checkpoint(home, SPECS["dual_lora"].model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(home))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield {
            name: RunSpec.model_validate(SPECS[name].model_dump(exclude={"version"}) | {"model": model})
            for name in MAPPED
        }


@pytest.fixture(scope="module")
def together(
    single_threaded: None, mapped: dict[str, RunSpec], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Store]:
    """Every case in two processes, all in one start of them."""
    runs = {_id(case): (SPECS[case[0]], case[1]) for case in CASES}
    runs |= {f"mapped {name}": (spec, FSDP) for name, spec in mapped.items()}
    stores = {name: Store(tmp_path_factory.mktemp("together")) for name in runs}
    jobs = [(spec.model_dump_json(), stores[name].folder, how) for name, (spec, how) in runs.items()]
    run_in_processes(
        partial(work_off, jobs), devices=2, gpus=False, report=lambda *_: None, keeps=lambda _: True
    )
    return stores


@pytest.mark.parametrize("case", CASES, ids=lambda case: _id(case))
def test_two_processes_give_what_one_gives(
    case: tuple[str, Execution], alone: Callable[[str], tuple[Store, Result]], together: dict[str, Store]
) -> None:
    (name, execution), store = case, together[_id(case)]
    spec, (reference, expected) = SPECS[name], alone(name)
    result = store.result(spec)
    assert result is not None
    # Equal, not close: two addends have one sum, and each pass is the same pass.
    assert result.training.losses == expected.training.losses
    assert result.training.validation_losses == expected.training.validation_losses
    assert result.training.validation_scores == expected.training.validation_scores
    assert (result.environment.devices, result.environment.strategy) == (2, execution.strategy)
    assert (expected.environment.devices, expected.environment.strategy) == (1, None)
    predictions, whole = store.predictions(spec), reference.predictions(spec)
    assert [p["id"] for p in predictions] == [p["id"] for p in whole]
    assert result.scores == expected.scores
    if not execution.sharded:  # which evaluates unmerged
        assert predictions == whole
        assert store.diagnostics(spec) == reference.diagnostics(spec)
    assert result.evaluation.merged == (not execution.sharded and spec.method.mergeable)
    probes = {probe.name for probe in result.probes}
    assert probes == {p.name for p in expected.probes} - (
        {"merged = unmerged"} if execution.sharded else set()
    )
    saved, same = (place.directory(spec) / "adapter" for place in (store, reference))
    for file in same.glob("*.safetensors"):
        assert (saved / file.name).read_bytes() == file.read_bytes()
    if (same / "adapter_config.json").exists():
        one, other = (json.loads((folder / "adapter_config.json").read_text()) for folder in (saved, same))
        assert sorted(one.pop("target_modules")) == sorted(other.pop("target_modules"))  # a set
        assert one == other


@pytest.mark.parametrize("name", MAPPED)
def test_weights_from_mapped_files_give_what_weights_in_memory_give(
    name: str, mapped: dict[str, RunSpec], together: dict[str, Store]
) -> None:
    """Each process reads its rows out of the files, both at once. DoRA needs the norms of all rows."""
    found, expected = together[f"mapped {name}"], together[_id((name, FSDP))]
    result, same = found.result(mapped[name]), expected.result(SPECS[name])
    assert result is not None and same is not None
    assert result.training.losses == same.training.losses
    assert result.training.validation_losses == same.training.validation_losses
    assert found.predictions(mapped[name]) == expected.predictions(SPECS[name])
    assert [probe.distance for probe in result.probes] == [probe.distance for probe in same.probes]


def test_a_run_survives_a_killed_process_and_an_end_of_time(
    alone: Callable[[str], tuple[Store, Result]], tmp_path: Path
) -> None:
    """First a process is killed, which must fail the run and not hang; then the run is told to stop, one step
    on; then it goes on to its end in a single process, and is what it would have been without all that."""
    spec, store = SPECS["lora with dropout"], Store(tmp_path)

    class Killing(Watch):
        def report(self, phase: str, done: int, total: int) -> None:
            if (phase, done) == ("train", 1):
                os.kill(multiprocessing.active_children()[-1].pid or 0, signal.SIGKILL)

    watch = Killing(1, Console(stderr=True, quiet=True))
    # Without checkpoints: how far it comes before its first step is seen here is a matter of load.
    unkept = DDP.model_copy(update={"checkpoint_minutes": None})
    run_here([spec], store=store, execution=lambda _: unkept, group="test", watch=watch)
    failure = store.failure(spec)
    assert failure is not None
    assert "ProcessError: process" in failure.error and "\n" not in failure.error
    assert not multiprocessing.active_children()

    def tell(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("train", 2):  # as a scheduler does, to every process of a job
            pids = [process.pid for process in multiprocessing.active_children()]
            subprocess.run(["kill", "-TERM", *map(str, pids), str(os.getpid())], check=True)

    with pytest.raises(Interrupted), on_stop_signal(stop):
        _execute(spec, tmp_path, DDP.model_copy(update={"checkpoint_minutes": 100}), tell)
    assert not multiprocessing.active_children()
    steps: list[int] = []
    result = _execute(
        spec, tmp_path, ALONE, lambda phase, done, _: steps.append(done) if phase == "train" else None
    )
    # The word comes while a later step is under way, or on a crowded machine when the last one is over; then
    # nothing was kept, and all is done again.
    assert steps in ([3, 4], [4], [], [1, 2, 3, 4])
    assert result.training.losses == alone("lora with dropout")[1].training.losses
    assert result.scores == alone("lora with dropout")[1].scores


@pytest.fixture
def second_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts the launcher of node 1, on this machine, for a run that this process starts as node 0."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        joins = "from repro.runs.processes import join_processes; join_processes(2)"
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(repro.__file__).parents[1])])
        node = subprocess.Popen(
            [sys.executable, "-c", joins],
            # One thread, as in these tests: more would add in another order, and losses are compared exactly.
            env=os.environ | {"NODE_RANK": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(node)
        return node

    yield start
    for node in started:
        node.kill()
        node.communicate()


def test_two_nodes_of_two_processes_give_what_one_process_gives(
    alone: Callable[[str], tuple[Store, Result]],
    second_node: Callable[[], subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    names = {"dual_lora": NODES, "hira": NODES.model_copy(update={"strategy": "fsdp"})}
    stores = {name: Store(tmp_path / name) for name in names}
    jobs = [(SPECS[name].model_dump_json(), stores[name].folder, how) for name, how in names.items()]
    node = second_node()
    run_in_processes(
        partial(work_off, jobs), nodes=2, devices=2, gpus=False, report=lambda *_: None, keeps=lambda _: True
    )
    assert (node.communicate(timeout=30)[1], node.returncode) == ("", 0)
    for name, store in stores.items():
        result, (reference, expected) = store.result(SPECS[name]), alone(name)
        assert result is not None
        assert (result.environment.devices, result.environment.strategy) == (4, names[name].strategy)
        assert result.scores == expected.scores
        # Close, not equal: four addends have several sums.
        assert result.training.losses == pytest.approx(expected.training.losses, rel=1e-5)
        saved, same = (place.directory(SPECS[name]) / "adapter" for place in (store, reference))
        for file in same.glob("*.safetensors"):
            torch.testing.assert_close(load_file(saved / file.name), load_file(file), rtol=1e-3, atol=1e-5)


def test_a_process_killed_on_another_node_ends_the_run_everywhere_and_it_resumes(
    alone: Callable[[str], tuple[Store, Result]],
    second_node: Callable[[], subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    spec, store = SPECS["dual_lora"], Store(tmp_path)
    execution = NODES.model_copy(update={"devices": 1})
    node = second_node()

    class Killing(Watch):
        def report(self, phase: str, done: int, total: int) -> None:
            if (phase, done) == ("train", 2):
                os.kill(_processes_of(node.pid)[-1], signal.SIGKILL)

    watch = Killing(1, Console(stderr=True, quiet=True))
    run_here([spec], store=store, execution=lambda _: execution, group="test", watch=watch)
    failure = store.failure(spec)
    assert failure is not None
    assert re.match(r"ProcessError: process 1 of the run was ended by SIGKILL; if nob", failure.error)
    said = node.communicate(timeout=30)[1].strip().splitlines()
    assert said[-1].endswith(failure.error)
    assert not multiprocessing.active_children()
    steps: list[int] = []
    result = _execute(
        spec, tmp_path, ALONE, lambda phase, done, _: steps.append(done) if phase == "train" else None
    )
    assert len(steps) < 4  # it kept a checkpoint every step
    assert result.training.losses == alone("dual_lora")[1].training.losses
    assert result.scores == alone("dual_lora")[1].scores


def _processes_of(launcher: int) -> list[int]:
    """The processes that a launcher has started for its devices."""
    children = Path(f"/proc/{launcher}/task").glob("*/children")
    pids = sorted(int(pid) for of_thread in children for pid in of_thread.read_text().split())
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_several_nodes_must_know_where_they_meet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ConfigError, match=r"execution.nodes is 2, but MASTER_ADDR and MASTER_PORT do not"):
        _execute(SPECS["dual_lora"], tmp_path, NODES)


def test_a_prefix_is_not_recomputed() -> None:
    spec = SPECS["dual_lora"].model_copy(update={"method": Prefix()})
    with pytest.raises(ConfigError, match=r"gradient_checkpointing does not work with prefix; set it to fal"):
        check_execution(spec, Execution(gradient_checkpointing=True))


def test_what_trains_every_weight_cannot_be_sharded(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"fsdp shards frozen weights, and fft trains all of them; set strat"
    ):
        _execute(SPECS["fft"], tmp_path, FSDP)


def test_blocks_are_really_sharded(tmp_path: Path) -> None:
    """In a world of one process: frozen weights of blocks are DTensors, and nothing else is."""
    from torch import distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from repro.models.loading import load_model
    from repro.models.sharding import shard

    spec = SPECS["dual_lora"]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    try:
        model = spec.method.attach(load_model(spec.model, "causal_lm"), spec.adapted_modules, "causal_lm")
        shard(model, init_device_mesh("cpu", (1,)))
        for name, parameter in model.named_parameters():
            frozen_in_block = ".layers." in name and not parameter.requires_grad
            assert isinstance(parameter, DTensor) == frozen_in_block, name
        assert any(isinstance(p, DTensor) for p in model.parameters())
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("devices", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_the_effective_batch_does_not_depend_on_devices(devices: int, size: int) -> None:
    from repro.training.spec import BatchSchedule

    execution = Execution(devices=devices, micro_batch_size=size)
    schedule = BatchSchedule(
        [1] * 40, batch_size=16, micro_batch_size=execution.examples(16), epochs=1, seed=0
    )
    whole = BatchSchedule([1] * 40, batch_size=16, micro_batch_size=16, epochs=1, seed=0)
    flat = [sorted(i for micro in batch for i in micro) for batch in schedule]
    assert flat == [sorted(batch[0]) for batch in whole]
    # As many passes as are printed, and no process has more of them.
    passes = int(execution.batch(16).split(" x ")[-1].split()[0])
    assert -(-len(next(iter(schedule))) // devices) == passes


def test_how_a_batch_is_made_is_said() -> None:
    assert (
        Execution(devices=2, micro_batch_size=4).batch(16) == "batch 16 = 2 devices x 4 examples x 2 passes"
    )
    assert Execution(micro_batch_size=16).batch(16) == "batch 16 = 1 device x 16 examples x 1 pass"
    nodes = Execution(nodes=2, devices=2, micro_batch_size=2).batch(16)
    assert nodes == "batch 16 = 4 devices x 2 examples x 2 passes"
    three = Execution(devices=3, micro_batch_size=4).batch(16)
    assert three == "batch 16 = up to 3 devices x 4 examples x 2 passes"


def test_more_devices_than_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"execution.devices is 999, but there are \d+ GPUs here"):
        run_in_processes(
            partial(work_off, []), devices=999, gpus=True, report=lambda *_: None, keeps=lambda _: True
        )
