"""Evaluation under `cloze` compared with lm-evaluation-harness (`lm-eval`, `hf` model), on the same items.

lm-eval gets the items as `multiple_choice` tasks with its metrics `acc` and `acc_norm`, in batches of 16
requests. Both times include tokenisation and scoring, and exclude loading the data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from repro.benchmarks.commonsense.benchmark import Commonsense
from repro.benchmarks.commonsense.records import Record
from repro.config import ConfigError
from repro.quiet import quiet_libraries
from repro.runs.bases import BaseModels
from repro.runs.build import context_of
from repro.runs.measurements import Measurement
from repro.speed.conditions import Conditions, Found
from repro.speed.runs import lora_run
from repro.speed.timing import ratio, take_turns

# Items per task, of eight tasks.
_ITEMS = 4


def figures(conditions: Conditions) -> Iterator[Found]:
    """Items per second, relative to lm-eval's.

    Raises:
        ConfigError: lm-eval is not installed.
        RuntimeError: its accuracies differ from ours.
    """
    spec, execution = lora_run(conditions.small)
    model, tokenizer = BaseModels().checkout(spec.model, "causal_lm", "fp32")
    benchmark = spec.benchmark
    assert isinstance(benchmark, Commonsense)
    benchmark = benchmark.model_copy(update={"test_per_task": _ITEMS})
    context = context_of(
        spec, tokenizer, execution.examples(spec.training.batch_size), execution.evaluation_tokens
    )
    module = benchmark.module(model, context, steps=1)
    records = benchmark.test_records()
    found: dict[str, Mapping[str, float]] = {}

    def ours() -> None:
        batches = benchmark.test_batches(records, tokenizer, execution.evaluation_tokens)
        scores = benchmark.score([prediction for batch in batches for prediction in module.predict(batch)])
        found["ours"] = {task: float(score.value or 0) for task, score in scores.items()}

    theirs = _Theirs(model, tokenizer, benchmark, records)

    def lm_eval() -> None:
        found["theirs"] = theirs.accuracies()

    times = take_turns(
        {"theirs": lm_eval, "ours": ours}, rounds=1 if conditions.small else 3, budget=conditions.budget
    )
    if {k: round(v, 6) for k, v in found["ours"].items()} != {
        k: round(v, 6) for k, v in found["theirs"].items()
    }:
        raise RuntimeError(f"accuracies differ: {found}")
    yield Measurement(
        name="evaluation under cloze: items per second, this project / lm-evaluation-harness",
        at=f"{spec.model.name}, {len(records)} items of {len(benchmark.tasks)} tasks, fp32",
        ratio=ratio(times["theirs"], times["ours"]),
        target=2.0,
        higher_is_better=True,
        note=f"{len(records) / times['ours'].median:.1f} against {len(records) / times['theirs'].median:.1f} "
        "items per second, same accuracies",
    )


class _Theirs:
    """lm-eval with the same weights and the same items."""

    def __init__(self, model: Any, tokenizer: Any, benchmark: Commonsense, records: list[Record]) -> None:
        # Read when lm-eval imports `datasets`, to keep it from accessing the network.
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
        try:
            from lm_eval.models.huggingface import HFLM
            from lm_eval.tasks import get_task_dict
        except ImportError as error:
            raise ConfigError(
                "the evaluation benchmark needs lm-evaluation-harness; pip install 'dual-lora-repro[bench]'"
            ) from error
        with quiet_libraries():
            self._model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16, device="cpu")
            self._tasks = get_task_dict([_task(benchmark, task, records) for task in benchmark.tasks])

    def accuracies(self) -> dict[str, float]:
        from lm_eval.evaluator import evaluate

        with quiet_libraries():
            found = evaluate(self._model, self._tasks, bootstrap_iters=0, log_samples=False)
        assert found is not None  # None only on ranks other than 0
        return {
            task: 100 * next(value for name, value in metrics.items() if name.startswith("acc"))
            for task, metrics in found["results"].items()
        }


def _task(benchmark: Commonsense, task: str, records: list[Record]) -> Any:
    """The records of a task as an lm-eval `multiple_choice` task with our contexts and continuations."""
    import datasets
    from lm_eval.api.task import ConfigurableTask

    protocol: Any = benchmark.protocol.protocol()
    rows = []
    for record in (record for record in records if record.task == task):
        item = protocol.options(record)
        # lm-eval adds the leading space itself, and normalises by the number of characters after it.
        rows.append(
            {"context": item.context, "choices": [c[1:] for c in item.continuations], "gold": record.gold}
        )
    metric = "acc" if task in ("boolq", "winogrande") else "acc_norm"
    return ConfigurableTask(
        config={
            "task": task,
            "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{context}}",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
        }
    )
