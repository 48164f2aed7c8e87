"""Estimated training costs of an experiment's runs, calibrated on the finished ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from repro.plans.cost import TrainingCost, training_cost
from repro.plans.evaluation_cost import EvaluationCost, evaluation_cost
from repro.plans.execution import Execution
from repro.plans.fitting import fitted
from repro.plans.gpu import Gpu
from repro.plans.spec import RunSpec
from repro.runs.states import RunState


@dataclass(frozen=True)
class Rate:
    """Throughput of finished runs: FLOPs by formula over measured seconds."""

    runs: int
    flops: float
    seconds: float

    @property
    def per_second(self) -> float:
        return self.flops / self.seconds


@dataclass(frozen=True)
class Estimates:
    """Costs of an experiment's runs.

    Attributes:
        states: states of all runs.
        costs: training cost of each run, by hash.
        tests: cost of each run's test pass, by hash.
        executions: how each run is executed, with a number of examples per pass, by hash.
    """

    states: Sequence[RunState]
    costs: Mapping[str, TrainingCost]
    tests: Mapping[str, EvaluationCost]
    executions: Mapping[str, Execution]

    def rates(self) -> dict[str, Rate]:
        """Throughput of finished runs, by hardware."""
        hardware = dict.fromkeys(state.result.environment.hardware for state in self.states if state.result)
        rates = {name: self.rate(self.states, name) for name in hardware}
        return {name: rate for name, rate in rates.items() if rate is not None}

    def rate(self, states: Sequence[RunState], hardware: str = "") -> Rate | None:
        """Throughput of the finished ones among `states`, on hardware with `hardware` in its name."""
        measured = [
            (self.costs[state.spec.hash].flops, state.result.training.seconds)
            for state in states
            if state.result is not None
            and state.spec.trains
            and hardware in state.result.environment.hardware
        ]
        if not measured:
            return None
        flops, seconds = map(sum, zip(*measured, strict=True))
        return Rate(len(measured), flops, seconds) if flops and isfinite(seconds) and seconds > 0 else None

    def seconds(self, states: Sequence[RunState], gpu: Gpu) -> float:
        """Training time on a GPU: at the rate measured on that GPU, otherwise at the assumed one."""
        rate, costs = self.rate(self.states, gpu.device), [self.costs[state.spec.hash] for state in states]
        if rate is not None:
            return sum(cost.flops for cost in costs) / rate.per_second
        return sum(cost.assumed_seconds(gpu) for cost in costs)


def estimate(states: Sequence[RunState], execution: Callable[[RunSpec], Execution], gpu: Gpu) -> Estimates:
    """Costs of runs on a GPU, with measured token counts where a finished run trained on the same data."""
    tokens = {
        _data(state.spec): state.result.training.tokens
        for state in states
        if state.result is not None and state.spec.trains
    }
    costs: dict[str, TrainingCost] = {}
    tests: dict[str, EvaluationCost] = {}
    executions: dict[str, Execution] = {}
    same: dict[str, str] = {}  # seeds cost the same
    for state in states:
        spec, hash = state.spec, state.spec.hash
        key = repr((spec.model.name, spec.adapted_modules, spec.method, spec.benchmark, spec.training))
        first = same.setdefault(key, hash)
        if first == hash:
            executions[hash] = fitted(spec, execution(spec), gpu.memory_bytes)
            costs[hash] = training_cost(spec, executions[hash], tokens.get(_data(spec)))
            tests[hash] = evaluation_cost(spec, executions[hash])
        else:
            executions[hash], costs[hash], tests[hash] = executions[first], costs[first], tests[first]
    return Estimates(states, costs, tests, executions)


def _data(spec: RunSpec) -> str:
    """The settings that determine how many tokens a run trains on."""
    return repr((spec.model.name, spec.benchmark, spec.training.epochs, spec.training.append_eos))
