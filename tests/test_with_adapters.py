"""A program that knows nothing of this project runs with its tuners, as `python` itself would run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro.paths import ROOT

# What a program sees of how it was started, and whether peft knows Dual LoRA.
REPORT = """\
import json, sys
from peft import PeftType
import beside
is_main = sys.modules["__main__"].__dict__ is globals()
print(json.dumps([__name__, sys.argv, is_main, "DUAL_LORA" in list(PeftType)]))
sys.exit(7)
"""


def _run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "repro.with_adapters", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "report.py").write_text(REPORT)
    (folder / "beside.py").write_text("")
    return folder


def test_a_file_runs_as_main(programs: Path) -> None:
    ran = _run("programs/report.py", "-m", "--x=1", folder=programs.parent)
    assert ran.returncode == 7, ran.stderr
    assert json.loads(ran.stdout) == ["__main__", ["programs/report.py", "-m", "--x=1"], True, True]


def test_a_module_runs_as_main(programs: Path) -> None:
    ran = _run("python", "-m", "report", "a", folder=programs)
    assert ran.returncode == 7, ran.stderr
    assert json.loads(ran.stdout) == ["__main__", [str(programs / "report.py"), "a"], True, True]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage: python -m repro.with_adapters PROGRAM"),
        (["--help"], "usage: python -m repro.with_adapters PROGRAM"),
        (["python", "-m"], "there is no module ''"),
        (["-m", "no.such.module"], "there is no module 'no.such.module'"),
        (["nothing_of_this_name"], "no console script 'nothing_of_this_name'"),
        (["folder/nothing.py"], "no console script 'folder/nothing.py'"),
        (["sh", "-c", "exit"], "is not a Python script"),
    ],
)
def test_an_unknown_program_is_refused_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from repro.with_adapters import main

    with pytest.raises(SystemExit) as caught:
        main(words)
    printed = capsys.readouterr()
    assert caught.value.code == 2 and printed.out == ""
    assert said in printed.err and printed.err.count("\n") == 1


TASK = """\
task: likelihoods_of_options
dataset_path: json
dataset_kwargs: {data_files: {test: ITEMS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{options}}"
doc_to_target: gold
target_delimiter: " "
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


def test_lm_eval_scores_an_adapter_as_this_project_does(tmp_path: Path) -> None:
    """The command of docs/adapters.md on a local task: the log-likelihoods of `cloze`, item by item."""
    pytest.importorskip("lm_eval", reason="needs the extra `bench`")
    import torch
    from peft import get_peft_model

    from repro.adapters.dual_lora import DualLoraConfig
    from repro.benchmarks.commonsense.protocols import Cloze
    from repro.benchmarks.commonsense.records import Record
    from repro.models import load_model_spec
    from repro.models.loading import load_model, load_tokenizer
    from repro.training.options import encode_options, option_log_likelihoods

    spec = load_model_spec("tiny-llama")
    base, tokenizer = load_model(spec, "causal_lm"), load_tokenizer(spec)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    torch.manual_seed(1)
    model = get_peft_model(base, DualLoraConfig(target_modules=["q_proj", "up_proj"], init_std=0.3)).eval()
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)

    records = [
        Record(
            str(number),
            "arc_easy",
            "test",
            f"Is {number} a number?",
            ("yes", "no it is not", "a"),
            number % 3,
        )
        for number in range(5)
    ]
    items = [Cloze().options(record) for record in records]
    options = [encode_options(tokenizer, item.context, item.continuations) for item in items]
    ours = option_log_likelihoods(model, options, pad_id=tokenizer.pad_token_id)
    chosen = [
        max(range(3), key=lambda option: values[option] / item.normalisers[option])
        for values, item in zip(ours, items, strict=True)
    ]

    data = [
        {"context": item.context, "options": [c.strip() for c in item.continuations], "gold": record.gold}
        for item, record in zip(items, records, strict=True)
    ]
    (tmp_path / "items.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in data))
    (tmp_path / "task.yaml").write_text(TASK.replace("ITEMS", str(tmp_path / "items.jsonl")))
    command = (
        "lm_eval --model hf --model_args pretrained=base,peft=adapter,add_bos_token=True,dtype=float32 "
        "--tasks likelihoods_of_options --include_path . --device cpu --log_samples --output_path out"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "repro.with_adapters", *command.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    (samples,) = tmp_path.glob("out/**/samples_*.jsonl")
    found = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    theirs = [[float(response[0]) for response in sample["filtered_resps"]] for sample in found]
    assert [len(values) for values in theirs] == [3] * 5
    torch.testing.assert_close(torch.tensor(theirs), torch.tensor(ours), rtol=0, atol=2e-4)
    (results,) = tmp_path.glob("out/**/results_*.json")
    scores = json.loads(results.read_text())["results"]["likelihoods_of_options"]
    right = [choice == record.gold for choice, record in zip(chosen, records, strict=True)]
    assert scores["acc_norm,none"] == pytest.approx(sum(right) / 5)
    # The adapter was applied: without it the numbers are others.
    with model.disable_adapter():
        without = option_log_likelihoods(model, options, pad_id=tokenizer.pad_token_id)
    assert (torch.tensor(without) - torch.tensor(ours)).abs().min() > 1e-2
