"""peft's own tests, run with our tuners: they pass but for a list of refusals, each with its reason."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import peft
import pytest

from repro.paths import ROOT
from tests.peft_batteries.cases import FEW, TUNERS
from tests.peft_batteries.refusals import REFUSALS
from tests.peft_batteries.sdist import VERSION, unpack_tests

HERE = Path(__file__).parent
FILES = {
    "few": ["test_custom_models"],
    "all": [
        "test_custom_models",
        "test_decoder_models",
        "test_encoder_decoder_models",
        "test_feature_extraction_models",
        "test_seq_classifier",
    ],
}


def run(part: str, folder: Path) -> list[dict[str, Any]]:
    """The results of peft's tests with our tuners, as `plugin.py` writes them."""
    unpack_tests(folder)
    results = folder / "results.jsonl"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}",
        "PEFT_BATTERY_PART": part,
        "PEFT_BATTERY_RESULTS": str(results),
        "OMP_NUM_THREADS": "1",
        # A model that we do not serve fails at once. peft's tests go online in spite of HF_HUB_OFFLINE.
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "plugin", "-p", "no:cacheprovider"]
    command += ["--import-mode=importlib", "--rootdir", str(folder), "-W", "ignore"]
    command += [f"peft_tests/{name}.py" for name in FILES[part]]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 1), (
        ended.stdout + ended.stderr
    )  # 1: tests failed, which we judge ourselves
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("part", ["few", pytest.param("all", marks=pytest.mark.batteries)])
def test_peft_finds_nothing_but_the_listed_refusals(part: str, tmp_path: Path) -> None:
    assert peft.__version__ == VERSION
    results = run(part, tmp_path)
    counts = Counter((result["file"], result["tuner"], result["outcome"]) for result in results)
    for key, count in sorted(counts.items()):
        print(*key, count)
    for file in FILES[part]:
        for tuner in TUNERS:
            least = 15 if part == "few" and tuner not in FEW else 25
            assert counts[file, tuner, "passed"] >= least, (file, tuner)

    wrong = []
    for result in results:
        expected = [refusal for refusal in REFUSALS if refusal.covers(result["tuner"], result["test"])]
        shown = f"{result['file']}: {result['test']}"
        if result["outcome"] == "failed":
            if not any(re.search(refusal.error, result["error"]) for refusal in expected):
                wrong.append(f"{shown} failed: {result['error'][:300]}")
        elif result["outcome"] == "passed" and expected:
            wrong.append(f"{shown} passed, but is listed as refused: {expected[0].reason}")
    assert not wrong, "\n".join(wrong)
    names = {(result["tuner"], result["test"]) for result in results}
    assert all(any(refusal.covers(*name) for name in names) for refusal in REFUSALS)
