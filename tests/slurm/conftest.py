"""A real SLURM for the tests: controller, nodes and authentication on this machine, in a folder of their own.

Nothing outside the folder is read or written, and nothing listens beyond loopback. Install the programs with
`make test-slurm`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")

_CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until the credential of its last start has expired: 2 minutes, or 5 seconds at least.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
# No cgroups, no accounting, no mail: a container need not have them.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
MaxArraySize=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
NodeName={host},{second} NodeHostname={host},{host} NodeAddr=127.0.0.1,127.0.0.1 Port={node_ports} \
CPUs={cpus} RealMemory={memory}
PartitionName=main Nodes={host} Default=YES DefaultTime=10 MaxTime=60 PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes={host} MaxTime=60 PriorityTier=2 PreemptMode=OFF
PartitionName=pair Nodes={host},{second} MaxTime=60 PriorityTier=1
"""


class OneMachine:
    """A cluster of this machine alone, which is two nodes in the partition `pair` and one in the others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the daemons as children of this process and wait until the node takes jobs."""
        host = socket.gethostname().split(".")[0]
        second = f"{host}-b"
        for name in ("state", f"spool.{host}", f"spool.{second}"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        configuration = self.folder / "slurm.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                host=host,
                second=second,
                user=subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip(),
                folder=self.folder,
                controller_port=_free_port(),
                node_ports=f"{_free_port()},{_free_port()}",
                # A node that has less than it says is drained.
                cpus=os.cpu_count(),
                memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10,
            )
        )
        os.environ["SLURM_CONF"] = str(configuration)
        munge = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        self._daemon(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge['socket']}",
            f"--pid-file={munge['pid']}", f"--log-file={munge['log']}", f"--seed-file={munge['seed']}",
        )  # fmt: skip
        self.wait(munge["socket"].exists, "munged")
        self._daemon("slurmctld", "-D")
        for node in (host, second):
            self._daemon("slurmd", "-D", "-N", node)
        states = ["sinfo", "--noheader", "--Node", "--partition=pair", "--format=%t"]
        self.wait(lambda: _output(*states).split() == ["idle", "idle"], "two idle nodes")

    def stop(self) -> None:
        """End every job, then the daemons."""
        subprocess.run(["scancel", "--full", "--signal=KILL", "--me"], capture_output=True)
        subprocess.run(["scancel", "--me"], capture_output=True)
        self.wait(lambda: not _output("squeue", "--noheader"), "an empty queue")
        for daemon in reversed(self._started):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 60) -> None:
        """Wait for something.

        Raises:
            TimeoutError: it did not come; the message ends with what the daemons said last.
        """
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                logs = [path.read_text(errors="replace")[-1000:] for path in self.folder.glob("*.log")]
                raise TimeoutError(f"{what}: not there after {seconds:.0f} s\n" + "\n".join(logs))
            time.sleep(0.2)

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("ab") as out:
            # setpriv: they end with the tests, however these end. A session of their own: Ctrl-C reaches the
            # tests alone, which then end them in order.
            command = ("setpriv", "--pdeathsig", "TERM", *command)
            self._started.append(subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneMachine]:
    """The running cluster; skips where its programs are not installed."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [name for name in _PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"no SLURM here ({missing[0]} is missing); `make test-slurm` installs it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        patch.setenv("SLURM_CONF", "")
        machine = OneMachine(tmp_path_factory.mktemp("slurm"))
        try:
            machine.start()
            yield machine
        finally:
            machine.stop()
