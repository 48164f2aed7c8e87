"""What is decided for a run on a machine: whether it trains by CUDA graphs, and whether it reuses weights."""

from __future__ import annotations

from typing import Any

import pytest

from repro.config import ConfigError
from repro.models import load_model_spec
from repro.plans.cost import training_cost
from repro.plans.execution import Execution, check_execution
from repro.plans.fitting import fitted
from repro.plans.spec import RunSpec

GIB = 2**30
SEVEN_BILLION = "llama-7b"


def run(method: dict[str, Any], model: str = "smollm2-135m-instruct", **training: Any) -> RunSpec:
    settings = {
        "epochs": 1,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "loss_on": "completion",
        "append_eos": True,
        "precision": "bf16",
    }
    return RunSpec(
        model=load_model_spec(model).for_family("commonsense"),
        method=method,
        benchmark={"family": "commonsense", "source": "hub", "protocol": {"name": "generate"}},
        training=settings | training,
        seed=0,
    )


DUAL, LORA = {"name": "dual_lora"}, {"name": "lora", "dropout": 0.0}


@pytest.mark.parametrize(
    ("method", "execution", "memory", "graphs"),
    [
        (DUAL, {}, 80, True),
        (LORA, {}, 80, True),
        (LORA, {}, None, False),  # a CPU
        (LORA, {"cuda_graphs": False}, 80, False),
        (LORA | {"dropout": 0.05}, {}, 80, False),
        (LORA, {"gradient_checkpointing": True}, 80, False),
        (LORA, {"devices": 2}, 80, False),
        (LORA, {"micro_batch_size": 4}, 80, True),
        (DUAL, {"micro_batch_size": 4}, 80, False),  # which reuses weights
        (DUAL, {"micro_batch_size": 4, "reuse_weights": False}, 80, True),
        ({"name": "base"}, {}, 80, False),
    ],
)
def test_graphs_are_for_passes_in_which_only_tensors_differ(
    method: dict[str, Any], execution: dict[str, Any], memory: int | None, graphs: bool
) -> None:
    bytes_ = None if memory is None else memory * GIB
    assert fitted(run(method), Execution(**execution), bytes_).cuda_graphs is graphs


def test_graphs_need_room_for_a_pass_of_a_new_shape_beside_them() -> None:
    spec, execution = run(LORA), Execution(micro_batch_size=16)
    cost = training_cost(spec, execution)
    for part, graphs in ((0.9, False), (1.1, True)):
        room = cost.memory + part * cost.activations
        assert fitted(spec, execution, room / 0.85).cuda_graphs is graphs


@pytest.mark.parametrize(
    ("method", "execution", "memory", "reuses"),
    [
        (DUAL, {"micro_batch_size": 4}, 80, True),
        (DUAL, {"micro_batch_size": 16}, 80, False),  # a single pass
        (DUAL, {"micro_batch_size": 16, "gradient_checkpointing": True}, 80, True),
        (DUAL, {"micro_batch_size": 8, "devices": 2}, 80, False),  # a single pass of each
        (DUAL, {"micro_batch_size": 2, "devices": 2, "strategy": "fsdp"}, 80, False),
        (DUAL, {"micro_batch_size": 4}, None, False),
        (DUAL, {"micro_batch_size": 4, "reuse_weights": True}, None, True),
        (DUAL, {"micro_batch_size": 4, "reuse_weights": False}, 80, False),
        (LORA, {"micro_batch_size": 4}, 80, False),  # has none
    ],
)
def test_weights_are_reused_where_a_step_needs_them_repeatedly(
    method: dict[str, Any], execution: dict[str, Any], memory: int | None, reuses: bool
) -> None:
    bytes_ = None if memory is None else memory * GIB
    assert fitted(run(method), Execution(**execution), bytes_).reuse_weights is reuses


@pytest.mark.parametrize(("precision", "number"), [("bf16", 2), ("fp32", 4)])
def test_reused_weights_cost_the_adapted_weights_once_more_and_have_to_fit(
    precision: str, number: int
) -> None:
    """LLaMA-7B: query, key, value, up and down of 32 blocks."""
    spec = run(DUAL, SEVEN_BILLION, precision=precision)
    without, reusing = (
        training_cost(spec, Execution(micro_batch_size=4, reuse_weights=reuses)).memory
        for reuses in (False, True)
    )
    assert reusing - without == number * 32 * (3 * 4096 * 4096 + 2 * 4096 * 11008)
    for memory, reuses in ((reusing - 1, False), (reusing + 1, True)):
        execution = fitted(spec, Execution(micro_batch_size=4), memory / 0.85)
        assert execution.reuse_weights is reuses


def test_reusing_the_weights_of_a_sharded_model_is_refused() -> None:
    execution = Execution(devices=2, strategy="fsdp", reuse_weights=True)
    with pytest.raises(ConfigError, match="reuse_weights does not work with strategy fsdp"):
        check_execution(run(DUAL), execution)
    check_execution(run(DUAL), Execution(devices=2, reuse_weights=True))
