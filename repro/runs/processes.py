"""One run in several processes, one per device, on one machine (node) or on several.

On each node a launcher starts and supervises the node's processes through torch's elastic agent, which ends
all of them when one fails. It restarts none: an interrupted run resumes from its checkpoint. The launcher of
node 0 holds the run's lock and reports its progress; the others only join. No launcher touches a GPU.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import resource_tracker
from tempfile import TemporaryDirectory
from threading import Event, Thread

import torch
from torch import distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from repro.config import ConfigError
from repro.runs.interruption import on_stop_signal, stop
from repro.runs.link import Flag, Link, Reports
from repro.runs.node import this_node

Work = Callable[[Link], None]
Report = Callable[[str, int, int], None]
Part = tuple[Work, int, bool]
"""What each node executes: the work, on how many devices, and whether these are GPUs."""

# Seconds between two looks: of a launcher at its processes, and of a process at what the launchers say.
_LOOK = 0.1

# Seconds that the nodes wait for each other before a run starts. SLURM starts them together, but loading
# Python from a shared disk can take minutes.
_MEETING = 600

# Seconds that the nodes wait for each other when a run is over. Their processes end within a second.
_PARTING = 20

# Processes wait for each other while one after the other loads a large model, and while the first one writes
# checkpoints. One that dies is noticed at once, by its launcher.
_PATIENCE = timedelta(hours=2)

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

# What torch's agent logs of a failure is in the error that it raises.
_TALKATIVE = (
    "torch.distributed.elastic.agent.server.api",
    "torch.distributed.elastic.multiprocessing.api",
    "torch.multiprocessing.spawn",
)


class ProcessError(RuntimeError):
    """One of a run's processes failed; the others were ended."""


def run_in_processes(
    work: Work,
    *,
    devices: int,
    gpus: bool,
    report: Report,
    keeps: Callable[[str], bool],
    nodes: int = 1,
) -> None:
    """Execute `work`, which must be picklable, in one process per device of every node.

    With several nodes this is called on node 0, and `join_processes` on each other node.

    Args:
        devices: of each node.
        report: see `repro.runs.job.Report`; called here.
        keeps: whether in a phase (`train`, `evaluate`, empty before both) the processes keep what they have
            done when they are told to stop; in any other phase they are ended.

    Raises:
        ProcessError: a process failed; the message names the first one.
        Interrupted: a launcher was told to stop.
        ConfigError: there are too few GPUs, or nothing says where the nodes meet.
    """
    _check_gpus(devices, gpus)
    host, port = ("localhost", 0) if nodes == 1 else _meeting_point(nodes)
    server = dist.TCPStore(host, port, is_master=True, multi_tenant=True, wait_for_workers=False)
    launcher = _Launcher(host, server.port, node=0, nodes=nodes)
    part = work, devices, gpus
    if nodes > 1:
        launcher.store.set("part", pickle.dumps(part).hex())
    launcher.run(part, report, keeps)


def join_processes(nodes: int) -> None:
    """Execute this node's part of the run that node 0 starts by `run_in_processes` on this number of nodes.

    Raises:
        ProcessError: a process of any node failed, or node 0 cannot be reached.
        Interrupted: a launcher was told to stop.
        ConfigError: nothing says where the nodes meet.
    """
    host, port = _meeting_point(nodes)
    with on_stop_signal(stop):
        _wait_for_node_0(host, port)
    try:
        _Launcher(host, port, node=this_node(), nodes=nodes).run(None, None, lambda phase: True)
    except dist.DistError as error:
        raise ProcessError(f"node 0 no longer answers at {host}:{port}; see its log") from error


def _check_gpus(devices: int, gpus: bool) -> None:
    if gpus and devices > torch.cuda.device_count():
        raise ConfigError(
            f"execution.devices is {devices}, but there are {torch.cuda.device_count()} GPUs here; lower it, "
            "or ask the cluster for as many"
        )


def _meeting_point(nodes: int) -> tuple[str, int]:
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError):
        raise ConfigError(
            f"execution.nodes is {nodes}, but MASTER_ADDR and MASTER_PORT do not say where the nodes meet; "
            "use `repro submit`, or set both and NODE_RANK and start `repro task` on every node"
        ) from None


def _wait_for_node_0(host: str, port: int) -> None:
    until = time.monotonic() + _MEETING
    while True:
        try:
            return socket.create_connection((host, port), timeout=1).close()
        except OSError as error:
            if time.monotonic() > until:
                raise ProcessError(f"node 0 does not answer at {host}:{port}; see its log") from error
            time.sleep(_LOOK)


def _connect(host: str, port: int) -> dist.Store:
    """The store in which the launchers and processes of a run talk; torch keeps its own keys beside them."""
    return dist.PrefixStore("repro", dist.TCPStore(host, port, wait_for_workers=False))


class _Launcher:
    """Starts, watches and ends the processes of this node."""

    def __init__(self, host: str, port: int, *, node: int, nodes: int) -> None:
        self.store = _connect(host, port)
        self._host, self._port, self._node, self._nodes = host, port, node, nodes
        self._told, self._over = Flag(self.store, "told"), Flag(self.store, "over")
        self._signalled = self._succeeded = False
        self._error: Exception | None = None

    def run(self, part: Part | None, report: Report | None, keeps: Callable[[str], bool]) -> None:
        """See `run_in_processes`. Node 0 alone has the part to execute, and the reports."""
        # A thread of its own, so that this one is free to answer signals and to pass on reports.
        agent = Thread(target=self._supervise, args=(part,), daemon=True)
        with on_stop_signal(self._note):
            try:
                if self._meet("ready", _MEETING, early=lambda: self._signalled or self._over.is_set()):
                    agent.start()
                    self._watch(agent, report, keeps)
            finally:
                try:
                    if not self._succeeded:
                        self._over.set()
                finally:
                    if agent.ident is not None:
                        agent.join()
                told, failure = self._outcome()
        if told:
            stop()
        if failure is not None:
            raise ProcessError(failure) from self._error

    def _note(self) -> None:
        if self._signalled:
            stop()
        self._signalled = True

    def _watch(self, agent: Thread, report: Report | None, keeps: Callable[[str], bool]) -> None:
        reports, phase = Reports(self.store), ""
        while agent.is_alive():
            agent.join(_LOOK)
            if self._signalled:
                self._told.set()
            if report is not None:
                for phase, done, total in reports.arrived():
                    report(phase, done, total)
                if self._told.is_set() and not keeps(phase):
                    stop()

    def _supervise(self, part: Part | None) -> None:
        # The processes inherit the block. A scheduler and Ctrl-C signal them too, but only launchers answer.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        # So does Python's resource tracker, which multiprocessing needs. Its start unblocks two signals here.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            work, devices, gpus = part or pickle.loads(bytes.fromhex(self.store.get("part").decode()))
            _check_gpus(devices, gpus)  # of this node
            with TemporaryDirectory(prefix="repro-processes-") as logs:
                config = LaunchConfig(
                    min_nodes=self._nodes,
                    max_nodes=self._nodes,
                    nproc_per_node=devices,
                    run_id="run",
                    # The nodes are known beforehand, and process 0 must be on node 0.
                    rdzv_backend="static",
                    rdzv_endpoint=f"{self._host}:{self._port}",
                    rdzv_configs={"rank": self._node, "timeout": _MEETING},
                    max_restarts=0,
                    monitor_interval=_LOOK,
                    logs_specs=DefaultLogsSpecs(logs),
                )
                threads = max(1, torch.get_num_threads() // devices)
                elastic_launch(config, _process)(work, gpus, threads)
            self._succeeded = True
        except Exception as error:
            self._error = error

    def _outcome(self) -> tuple[bool, str | None]:
        """Whether a launcher was told to stop, and what failed first, as the nodes together know it."""
        if self._signalled:
            self._told.set()
        if isinstance(self._error, ChildFailedError):
            rank, failure = self._error.get_first_failure()
            if failure.exitcode < 0:
                killed = f"process {rank} of the run was ended by {failure.signal_name()}"
                self._say("killed", f"{killed}; if nobody killed it, the memory may not have sufficed")
            else:  # most have said more themselves
                self._say("error", f"process {rank} of the run failed with exit code {failure.exitcode}")
        elif self._error is not None:
            self._say("error", f"node {self._node} of the run failed: {_in_a_line(self._error)}")
        elif not self._succeeded:
            self._say("error", f"node {self._node} of the run left before all {self._nodes} were there")
        if not self._succeeded:
            self._meet("ended", _PARTING)
        told = self._told.is_set()
        # A killed process cannot say so, and those that lose their connection to it speak first.
        said = [self.store.get(key).decode() for key in ("killed", "error") if self.store.check([key])]
        self._meet("leaving", _PARTING if self._node == 0 else 0)  # node 0 hosts the store
        return told, said[0] if said and not self._succeeded else None

    def _say(self, key: str, line: str) -> None:
        """Keep the first line of all that the nodes and processes say."""
        self.store.compare_set(key, "", line)

    def _meet(self, key: str, seconds: float, early: Callable[[], bool] = lambda: False) -> bool:
        """Wait until all nodes have come here, and return whether they have."""
        until = time.monotonic() + seconds
        there = self.store.add(key, 1)
        while there < self._nodes and time.monotonic() < until and not early():
            time.sleep(_LOOK)
            there = self.store.add(key, 0)
        return there == self._nodes


def _process(work: Work, gpus: bool, threads: int) -> None:
    """One process's life; torch's agent has set RANK and the like."""
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    meeting_point = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store, finished = _connect(*meeting_point), Event()
    # By a connection of its own: one that waits for a key blocks all others.
    over = Flag(_connect(*meeting_point), "over")
    ending = Thread(target=_end_if_asked, args=(over, finished), daemon=True)
    ending.start()
    try:
        if gpus:
            torch.cuda.set_device(local_rank)
        else:
            torch.set_num_threads(threads)
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_PATIENCE)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # Lightning, which here has one device, would obey
            del os.environ[name]
        work(Link(Reports(store), Flag(store, "told")))
        dist.barrier()
        dist.destroy_process_group()
    except Exception as error:
        store.compare_set("error", "", f"process {rank} of the run failed: {_in_a_line(error)}")
        raise
    finally:
        finished.set()
        ending.join()  # a thread inside of torch would abort Python's shutdown


def _end_if_asked(over: Flag, finished: Event) -> None:
    """End the process at once when the run is over elsewhere, its launcher says so, or a launcher is gone.

    A thread can do so while torch waits for another process. Signals of anyone but the launcher are dropped.
    """
    launcher = os.getppid()
    try:
        while not finished.is_set():
            received = signal.sigtimedwait(_SIGNALS, _LOOK)
            asked = received is not None and received.si_pid == launcher
            if asked or os.getppid() != launcher or over.is_set():
                os._exit(1)
    except dist.DistError:  # node 0's launcher is gone, and with it the store
        os._exit(1)


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
