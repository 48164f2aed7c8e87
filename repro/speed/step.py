"""A training step of a whole model under LoRA, DoRA, HiRA and Dual LoRA, for the paper's claim about time.

The paper claims less than 5 % more time than LoRA, but not how LoRA was run. Two readings are measured: LoRA
without dropout, which is cheapest, and with dropout 0.05, as in the scripts behind the paper's baselines.
Gradient checkpointing computes each block's forward pass twice under both methods, which lowers the ratio;
memory is compared with it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from repro.methods.base import Method
from repro.methods.lora import LoRA
from repro.models.gradient_checkpointing import checkpoint_blocks
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.quiet import quiet_libraries
from repro.runs.bases import BaseModels
from repro.runs.build import context_of
from repro.runs.measurements import Measurement, Ratio
from repro.speed.conditions import Conditions, Found
from repro.speed.peak_memory import peak_bytes
from repro.speed.timing import ratio, take_turns
from repro.training.dropout import checkpoint_contexts
from repro.training.finetuning_data import FineTuningData

CLAIMED = 1.05
# Limit on peak memory relative to LoRA: no dense ΔW is kept, only one block of it exists at a time.
MEMORY = 1.05
# A round's ratio spreads by a tenth or more, so that five rounds, which ten minutes for all parts leave,
# decide no claim. Longer benches (`--minutes 30`) take as many of these as their time allows.
_ROUNDS = 30


class Step:
    """One optimiser step of a method on the first batch of a run of Table 1."""

    def __init__(
        self,
        spec: RunSpec,
        bases: BaseModels,
        micro_batch_size: int,
        *,
        checkpointing: bool,
        data: FineTuningData | None = None,
    ) -> None:
        """`data`: of another step on the same batch; None reads and tokenises it."""
        torch.manual_seed(spec.seed)
        benchmark, training, method = spec.benchmark, spec.training, spec.method
        base, tokenizer = bases.checkout(spec.model, benchmark.model_task, training.precision)
        context = context_of(spec, tokenizer, micro_batch_size, evaluation_tokens=1024)
        self.data = data = benchmark.data(context) if data is None else data
        self.model = method.attach(base, spec.adapted_modules, benchmark.model_task).train()
        if checkpointing:
            checkpoint_blocks(self.model, checkpoint_contexts)
        self._module = benchmark.module(self.model, context, data.steps)
        self._batch = next(iter(data.train_dataloader()))
        self._optimizer = method.optimizer(self.model, training.optimizer_settings)

    def __call__(self) -> None:
        for micro, examples in zip(self._batch["micro_batches"], self._batch["examples"], strict=True):
            with self._module.masks(examples, micro):
                loss = self._module.loss_sum(micro) / self._batch["targets"]
            loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def peak_bytes(self) -> int:
        """Peak bytes of weights, optimiser state and one step. Call it after a first step."""
        states = (value for state in self._optimizer.state.values() for value in state.values())
        tensors = (value for value in states if isinstance(value, torch.Tensor))
        return peak_bytes(self, [*self.model.parameters(), *self.model.buffers(), *tensors])


def steps(profile: str) -> dict[str, Step]:
    """The measured steps, by method and variant."""
    planned = expand(load_experiment("table1"), load_profile(profile))
    specs = {row.id: row.specs[0] for row in planned.rows}
    bases = BaseModels()
    lora, dual = specs["lora"], specs["dual_lora"].method
    assert isinstance(lora.method, LoRA)
    micro_batch = planned.execution(lora).examples(lora.training.batch_size)

    def step(method: Method, checkpointing: bool = False) -> Step:
        spec = lora.model_copy(update={"method": method})
        return Step(spec, bases, micro_batch, checkpointing=checkpointing, data=first.data)

    with quiet_libraries():
        first = Step(lora, bases, micro_batch, checkpointing=False)
        return {
            "LoRA": first,
            "LoRA, dropout 0.05": step(lora.method.model_copy(update={"dropout": 0.05})),
            "DoRA": step(specs["dora"].method),
            "HiRA": step(specs["hira"].method),
            "Dual LoRA": step(dual),
            "LoRA, checkpointing": step(lora.method, checkpointing=True),
            "Dual LoRA, checkpointing": step(dual, checkpointing=True),
        }


def figures(conditions: Conditions) -> Iterator[Found]:
    """Time of Dual LoRA's step relative to LoRA's (both readings), DoRA's and HiRA's; memory to LoRA's."""
    small = conditions.small
    profile = "smoke" if small else "laptop"
    at = f"Table 1's model and batch, profile {profile}"
    cases = steps(profile)
    times = take_turns(cases, rounds=2 if small else _ROUNDS, budget=conditions.budget)
    pairs = [("Dual LoRA", other) for other in ("LoRA", "LoRA, dropout 0.05", "DoRA", "HiRA")]
    for one, other in [*pairs, ("Dual LoRA, checkpointing", "LoRA, checkpointing")]:
        claimed = other.startswith("LoRA")
        yield Measurement(
            name=f"{one} / {other}: a training step",
            at=at,
            ratio=ratio(times[one], times[other]),
            target=CLAIMED if claimed else None,
            note=f"{times[one].median:.2f} s against {times[other].median:.2f} s"
            + ("; the target is the paper's claim" if claimed else ""),
        )
    peaks = [cases[f"{name}, checkpointing"].peak_bytes() for name in ("Dual LoRA", "LoRA")]
    yield Measurement(
        name="Dual LoRA, checkpointing / LoRA, checkpointing: peak memory of a step",
        at=at,
        ratio=Ratio(rounds=(peaks[0] / peaks[1],)),
        target=MEMORY,
        note=" MiB against ".join(f"{peak / 2**20:,.0f}" for peak in peaks) + " MiB of tensors",
    )
