"""One run in several processes of this machine, a device each: started, watched, told to stop, ended.

The processes are ours and not Lightning's, whose launcher executes the command line again: here one run is
given away and nothing else, the starting process keeps the run's lock, and whatever becomes of a process
becomes known here. It touches no GPU itself.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from queue import Empty
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessContext

from repro.config import ConfigError
from repro.runs.interruption import on_stop_signal, stop

# Seconds between two looks at the processes.
_LOOK = 0.1

# Processes wait for each other while one of them after the other loads a large model, and while the first
# writes checkpoints. One that dies is noticed at once, by the process that started it.
_PATIENCE = timedelta(hours=2)


class ProcessError(RuntimeError):
    """One of a run's processes failed; the others were ended."""


@dataclass(frozen=True)
class Link:
    """What a process has to do with the one that started it.

    Attributes:
        reports: what it says of its progress.
        told: set when it is to stop.
    """

    reports: Any
    told: Any


def run_in_processes(
    work: Callable[[Link], None],
    *,
    devices: int,
    gpus: bool,
    report: Callable[[str, int, int], None],
    keeps: Callable[[str], bool],
) -> None:
    """Execute `work`, which must be picklable, in as many processes as there are devices.

    Args:
        report: see `repro.runs.job.Report`; called here.
        keeps: whether in a phase (`train`, `evaluate`, empty before both) the processes keep what they have
            done when they are told to stop; in another one they are ended.

    Raises:
        ProcessError: a process failed; the first one's error.
        Interrupted: this process was told to stop.
        ConfigError: there are not as many GPUs.
    """
    if gpus and devices > torch.cuda.device_count():
        raise ConfigError(
            f"execution.devices is {devices}, but there are {torch.cuda.device_count()} GPUs here; lower it, "
            "or ask the cluster for as many"
        )
    spawn = multiprocessing.get_context("spawn")
    link = Link(spawn.Queue(), spawn.Event())
    phase = ""

    def note() -> None:
        if link.told.is_set():
            stop()
        link.told.set()

    with TemporaryDirectory(prefix="repro-processes-") as meeting, on_stop_signal(note):
        threads = max(1, torch.get_num_threads() // devices)
        context = multiprocessing.start_processes(
            _rank,
            args=(work, link, devices, gpus, threads, f"file://{Path(meeting) / 'ranks'}"),
            nprocs=devices,
            join=False,
            start_method="spawn",
        )
        assert context is not None
        try:
            over = False
            while not over:
                over = _over(context)
                for phase, done, total in _waiting(link.reports):
                    report(phase, done, total)
                if link.told.is_set() and not keeps(phase):
                    stop()
        except ProcessError:
            if link.told.is_set():  # one that has stopped leaves the others without an answer
                stop()
            raise
        finally:
            for process in context.processes:
                process.kill()
                process.join()
    if link.told.is_set():
        stop()


def _over(context: ProcessContext) -> bool:
    """Whether all processes have ended.

    Raises:
        ProcessError: one of them by an error.
    """
    try:
        return context.join(timeout=_LOOK, grace_period=1)
    except multiprocessing.ProcessRaisedException as error:
        last = error.msg.strip().splitlines()[-1]
        raise ProcessError(f"process {error.error_index} of the run failed: {last}") from error
    except multiprocessing.ProcessExitedException as error:
        raise ProcessError(f"{error}; if nobody killed it, the memory may not have sufficed") from error


def _waiting(reports: Any) -> list[tuple[str, int, int]]:
    found = []
    while True:
        try:
            found.append(reports.get_nowait())
        except Empty:
            return found


def _rank(
    index: int,
    work: Callable[[Link], None],
    link: Link,
    devices: int,
    gpus: bool,
    threads: int,
    meeting: str,
) -> None:
    # A scheduler may signal every process of a job. The one that started this one is told, and tells all.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if gpus:
        torch.cuda.set_device(index)
    else:
        torch.set_num_threads(threads)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        init_method=meeting,
        rank=index,
        world_size=devices,
        timeout=_PATIENCE,
    )
    work(link)
    dist.barrier()
    dist.destroy_process_group()
