"""A training step of a whole model under LoRA, DoRA, HiRA and Dual LoRA: the paper's claim about time.

The paper says that Dual LoRA costs less than 5 % more than LoRA, and does not say how LoRA was run. Two
readings are measured: LoRA without dropout, the cheapest way, and with the dropout of 0.05 that the scripts
have from which the paper's baselines come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from repro.bench.record import Figure
from repro.bench.timing import ratio, take_turns
from repro.methods.base import Method
from repro.methods.lora import LoRA
from repro.quiet import quiet_libraries
from repro.study.bases import BaseModels
from repro.study.experiment import load_experiment, plan
from repro.study.profile import load_profile
from repro.study.spec import RunSpec

CLAIMED = 1.05


def steps(profile: str) -> dict[str, Callable[[], None]]:
    """One optimiser step of each method on Table 1's model and its first batch, by the row's label."""
    planned = plan(load_experiment("table1"), load_profile(profile))
    specs = {row.id: row.specs[0] for row in planned.rows}
    bases = BaseModels()
    lora = specs["lora"]
    assert isinstance(lora.method, LoRA)
    methods = {specs[name].method.label: specs[name].method for name in ("lora", "dora", "hira", "dual_lora")}
    methods["LoRA, dropout 0.05"] = lora.method.model_copy(update={"dropout": 0.05})
    micro_batch = planned.execution(lora).micro_batch_size
    with quiet_libraries():
        return {label: _step(lora, method, bases, micro_batch) for label, method in methods.items()}


def _step(spec: RunSpec, method: Method, bases: BaseModels, micro_batch_size: int) -> Callable[[], None]:
    torch.manual_seed(spec.seed)
    benchmark, training = spec.benchmark, spec.training
    base, tokenizer = bases.checkout(spec.model, benchmark.model_task, training.precision)
    data = benchmark.data(
        tokenizer, training, seed=spec.seed, micro_batch_size=micro_batch_size, evaluation_tokens=1024
    )
    model = method.attach(base, spec.adapted_modules, benchmark.model_task).train()
    module = benchmark.module(model, tokenizer, method, training, steps=data.steps, seed=spec.seed)
    batch = next(iter(data.train_dataloader()))
    optimizer = method.optimizer(model, training.optimizer_settings)

    def step() -> None:
        for micro in batch["micro_batches"]:
            (module.loss_sum(micro) / batch["targets"]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def figures(small: bool = False) -> Iterator[Figure]:
    """Dual LoRA's step over LoRA's in both readings, and over DoRA's and HiRA's."""
    profile = "smoke" if small else "laptop"
    times = take_turns(steps(profile), rounds=2 if small else 5)
    for other in times:
        if other != "Dual LoRA":
            yield Figure(
                name=f"Dual LoRA / {other}, a training step",
                at=f"Table 1's model and batch under the profile {profile}",
                ratio=ratio(times["Dual LoRA"], times[other]),
                target=CLAIMED if other.startswith("LoRA") else None,
                note=f"{times['Dual LoRA'].median:.2f} s against {times[other].median:.2f} s"
                + ("; the bound is the paper's claim" if other.startswith("LoRA") else ""),
            )
