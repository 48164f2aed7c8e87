"""A weight that two processes share by rows or by columns gives what the whole weight gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from repro.paths import ROOT


def test_halves_of_a_model_compute_what_the_whole_computes(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("sharded_worker.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
