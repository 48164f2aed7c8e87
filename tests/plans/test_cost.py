"""The costs of a plan: FLOPs compared with torch's counter, memory with the tensors that exist."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from repro.benchmarks.base import TrainingSize
from repro.benchmarks.commonsense.benchmark import Commonsense
from repro.methods import OptimizerSettings
from repro.models import ModelSpec, load_model_spec
from repro.models.gpt2 import split_attention_inputs
from repro.optimizers.state_bytes import state_bytes
from repro.plans.cost import BLOCK_FORWARD_OPERATIONS, BLOCK_OPERATIONS, ModelSizes, training_cost
from repro.plans.evaluation_cost import evaluation_cost
from repro.plans.execution import Execution
from repro.plans.fitting import fitted
from repro.plans.gpu import load_gpu
from repro.plans.spec import RunSpec

EXECUTION = Execution(micro_batch_size=8)
H200 = load_gpu("h200")

TRAINING = {
    "epochs": 1,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "loss_on": "completion",
    "append_eos": True,
}
# Family, model, and what makes the model small but not so small that attention outweighs the linear maps.
SMALL: dict[str, tuple[str, dict[str, int]]] = {
    "llama": ("commonsense", {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 2}),
    "gpt2": ("e2e", {"n_embd": 256, "n_layer": 2, "n_head": 4}),
    "roberta": ("glue", {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2}),
    "deberta": ("glue", {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 3}),
}
NAMES = {
    "llama": "llama3-8b",
    "gpt2": "gpt2-medium",
    "roberta": "roberta-base",
    "deberta": "deberta-v2-xxlarge",
}


def spec(kind: str, method: dict[str, Any]) -> RunSpec:
    """A run of one pass, with one micro-batch of examples."""
    family, smaller = SMALL[kind]
    model = load_model_spec(NAMES[kind]).for_family(family)
    heads = {"vocab_size": 1000} | ({} if kind == "gpt2" else {"num_attention_heads": 4})
    if kind == "llama":
        heads["num_key_value_heads"] = 2
    architecture = model.architecture | smaller | heads
    benchmark = {
        "commonsense": {"source": "hub", "train_per_task": 1, "protocol": {"name": "generate"}},
        "glue": {"source": "hub", "tasks": ["rte"], "train_size": 8},
        "e2e": {"source": "hub", "train_size": 8},
    }[family]
    return RunSpec(
        model=ModelSpec(**model.model_dump() | {"architecture": architecture}),
        method=method,
        benchmark=benchmark | {"family": family},
        training=TRAINING | {"batch_size": 8},
        seed=0,
    )


def built(run: RunSpec) -> Any:
    torch.manual_seed(0)
    task = run.benchmark.model_task
    auto = AutoModelForCausalLM if task == "causal_lm" else AutoModelForSequenceClassification
    config = AutoConfig.for_model(**run.model.architecture)
    model = auto.from_config(config, attn_implementation="eager")  # whose operations torch counts
    if run.model.architecture["model_type"] == "gpt2":
        split_attention_inputs(model)
    model.enable_input_require_grads()  # a frozen embedding saves a first layer what the formula counts
    return run.method.attach(model, run.adapted_modules, task).train()


def one_pass(run: RunSpec) -> tuple[Any, Callable[[], None], int]:
    """A model, a training pass with the run's number of tokens, and that number."""
    size = run.training_size
    length, predicted = round(size.tokens / size.examples), round(size.predicted / size.examples)
    model, ids = built(run), torch.randint(5, 900, (size.examples, length))
    base = model.get_base_model() if hasattr(model, "get_base_model") else model

    def train() -> None:
        if run.benchmark.model_task == "causal_lm":
            hidden = base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[:, :predicted]
            base.get_output_embeddings()(hidden).sum().backward()
        else:
            model(input_ids=ids).logits.sum().backward()

    return model, train, ids.numel()


# The estimate's deviation in per cent. A token's worth of predictions is rounded; of DeBERTa's relative
# positions some gradients depend on what is adapted.
TOLERANCE = {"llama": 1, "gpt2": 2, "roberta": 1, "deberta": 4}
METHODS = [
    {"name": "lora", "rank": 8},
    {"name": "dora", "rank": 8},
    {"name": "hira", "rank": 8},
    {"name": "dual_lora", "magnitude_rank": 4},
    {"name": "fft"},
]


@pytest.mark.parametrize(
    ("kind", "method"),
    [*((kind, method) for kind in SMALL for method in METHODS), ("gpt2", {"name": "adapter_l"})],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_a_whole_model_takes_the_operations_of_the_formula(kind: str, method: dict[str, Any]) -> None:
    run = spec(kind, method)
    _, train, tokens = one_pass(run)
    # torch's counter does not know the operation with which Dual LoRA sums gradients.
    in_place = {torch.ops.aten.addmm_: lambda into, left, right, **_: 2 * left[0] * left[1] * right[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        train()
    cost = training_cost(run, EXECUTION, tokens=tokens)
    assert cost.passes == 1
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=TOLERANCE[kind] / 100)


@pytest.mark.parametrize(
    "method", [*METHODS, {"name": "galore"}, {"name": "garare"}], ids=lambda m: m["name"]
)
def test_weights_gradients_and_optimiser_take_what_is_said(method: dict[str, Any]) -> None:
    run = spec("llama", method)
    model, train, _ = one_pass(run)
    optimizer = run.method.optimizer(model, OptimizerSettings(learning_rate=1e-3))
    train()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    parameters = [*model.parameters()]
    optimizer.step()
    cost = training_cost(run, EXECUTION)
    tensors = sum(4 * t.numel() for t in [*parameters, *gradients])
    # AdamW's count of steps is a number for each parameter.
    steps = 4 * len(gradients) if method["name"] not in ("galore", "garare") else 0
    assert cost.weights + cost.trained == tensors + state_bytes(optimizer) - steps


@pytest.mark.parametrize("kind", SMALL)
def test_activations_are_about_what_is_kept(kind: str) -> None:
    run = spec(kind, {"name": "dual_lora", "magnitude_rank": 4})
    run = run.model_copy(update={"benchmark": run.benchmark.model_copy(update={"max_tokens": 64})})
    model, kept = built(run), {}
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=torch.randint(5, 900, (8, 64)))
    activations = training_cost(run, EXECUTION).activations
    # GPT-2's GELU, written out in elementary operations, keeps each of them.
    assert sum(kept.values()) == pytest.approx(activations, rel=0.45 if kind == "gpt2" else 0.15)


# A step of LLaMA-7B on one H200: 16 texts of 272 tokens, R 32, five maps of a block adapted, no dropout;
# milliseconds and GiB without gradient checkpointing, and with it.
SEEN = {
    "lora": ({"rank": 32, "dropout": 0.0}, (350, 39.2), (509, 15.9)),
    "dual_lora": ({"magnitude_rank": 16}, (541, 36.9), (744, 15.9)),
    "hira": ({"rank": 32}, (553, 47.4), (775, 15.9)),
    "dora": ({"rank": 32, "dropout": 0.0}, (601, 53.4), (903, 16.8)),
}


@pytest.fixture
def as_seen(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, Any]], RunSpec]:
    texts, tokens = 16, 272
    size = TrainingSize(texts, texts * tokens, texts * (tokens - 1), tokens)
    monkeypatch.setattr(Commonsense, "training_size", lambda *_: size)

    def run(name: str, settings: dict[str, Any]) -> RunSpec:
        return RunSpec(
            model=load_model_spec("llama-7b").for_family("commonsense"),
            method={"name": name} | settings,
            benchmark={"family": "commonsense", "source": "hub", "protocol": {"name": "generate"}},
            training=TRAINING | {"batch_size": texts, "precision": "bf16"},
            seed=0,
        )

    return run


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", SEEN)
def test_a_step_is_estimated_as_it_was_seen(
    name: str, checkpointing: bool, as_seen: Callable[[str, dict[str, Any]], RunSpec]
) -> None:
    settings, *seen = SEEN[name]
    milliseconds, gib = seen[checkpointing]
    execution = Execution(micro_batch_size=16, gradient_checkpointing=checkpointing)
    cost = training_cost(as_seen(name, settings), execution)
    assert cost.passes == 1
    assert 1000 * cost.assumed_seconds(H200) == pytest.approx(milliseconds, rel=0.25)
    assert cost.memory / 2**30 == pytest.approx(gib, rel=0.25)


def test_the_order_of_methods_is_the_one_that_was_seen(
    as_seen: Callable[[str, dict[str, Any]], RunSpec],
) -> None:
    costs = [
        training_cost(as_seen(name, settings), Execution(micro_batch_size=16))
        for name, (settings, *_) in SEEN.items()
    ]
    seconds = [cost.assumed_seconds(H200) for cost in costs]
    assert seconds[0] < min(seconds[1:]) and seconds[3] == max(seconds)
    assert costs[1].memory < min(costs[2].memory, costs[3].memory)


class Launched(TorchDispatchMode):
    """Counts the operations that make new tensors or change some, which is what a GPU would launch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        alias = any(value.alias_info for value in function._schema.returns)
        self.count += not ("detach" in str(function) or "empty" in str(function)) and (
            not alias or function._schema.is_mutable
        )
        return result


@pytest.mark.parametrize("kind", SMALL)
def test_a_block_launches_about_as_many_operations_as_assumed(kind: str) -> None:
    counts = []
    for blocks in (1, 2):
        run = spec(kind, {"name": "lora", "rank": 8})
        key = "n_layer" if kind == "gpt2" else "num_hidden_layers"
        architecture = run.model.architecture | {key: blocks}
        auto = AutoModelForCausalLM if run.model.causal else AutoModelForSequenceClassification
        config = AutoConfig.for_model(**architecture)
        model = auto.from_config(config, dtype=torch.bfloat16).train().requires_grad_(False)
        if kind == "gpt2":
            split_attention_inputs(model)
        model.enable_input_require_grads()
        ids = torch.randint(5, 900, (2, 16))
        with torch.autocast("cpu", torch.bfloat16):
            with Launched() as forward:
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            with Launched() as backward:
                logits.sum().backward()
        counts.append((forward.count, backward.count))
    (f1, b1), (f2, b2) = counts
    assert f2 - f1 == pytest.approx(BLOCK_FORWARD_OPERATIONS, rel=0.45)
    assert f2 - f1 + b2 - b1 == pytest.approx(BLOCK_OPERATIONS, rel=0.35)


def test_as_many_examples_as_fit_are_taken_in_equal_passes() -> None:
    run = spec("llama", {"name": "lora", "rank": 8})
    run = run.model_copy(update={"training": run.training.model_copy(update={"batch_size": 32})})
    sizes = [32, 16, 11, 8, 7, 6, 5, 4, 3, 2, 1]
    needs = {n: training_cost(run, Execution(micro_batch_size=n)).memory for n in sizes}
    for size, larger in zip(sizes[1:], sizes, strict=False):
        memory = (needs[size] + needs[larger]) / 2 / 0.85
        assert fitted(run, Execution(), memory).micro_batch_size == size
    assert fitted(run, Execution(), 10 * needs[32]).micro_batch_size == 32
    assert fitted(run, Execution(), 1.0).micro_batch_size == 1  # which may fail, and says so itself
    assert fitted(run, Execution(devices=2), 10 * needs[32]).micro_batch_size == 16
    assert fitted(run, Execution(), None).micro_batch_size == 16  # a CPU
    assert fitted(run, Execution(micro_batch_size=5), 1.0).micro_batch_size == 5
    assert fitted(run, Execution(gradient_checkpointing=True), needs[8]).examples(32) > 8


def test_a_sharded_model_is_a_part_on_each_device() -> None:
    run = spec("llama", {"name": "lora", "rank": 8})
    whole, shared = (
        training_cost(run, Execution(micro_batch_size=2, devices=devices, strategy="fsdp"))
        for devices in (1, 2)
    )
    # Two blocks of which one half is kept, and both are gathered: no gain in so small a model.
    assert shared.devices == 2 and shared.activations == whole.activations
    blocks = load_model_spec("llama3-70b").for_family("commonsense")
    large = run.model_copy(update={"model": blocks})
    whole, shared = (
        training_cost(large, Execution(micro_batch_size=2, devices=devices, strategy="fsdp")).weights
        for devices in (1, 8)
    )
    assert shared < whole / 5


def test_the_test_pass_holds_one_base_and_every_beams_keys_and_values() -> None:
    model = load_model_spec("llama-7b").for_family("commonsense")
    run = spec("llama", {"name": "lora", "rank": 8})
    run = run.model_copy(
        update={"model": model, "training": run.training.model_copy(update={"precision": "bf16"})}
    )
    cost = evaluation_cost(run, Execution(evaluation_tokens=8192))
    assert cost.weights == 2 * 6_738_415_616  # merged, in bf16
    # 4 beams of up to 8,192 prompt tokens, keys and values of 32 layers of 4,096 in bf16, and the new tokens.
    prompts = 4 * 8192 * 2 * 32 * 4096 * 2
    assert prompts < cost.cache < 1.4 * prompts
    half = evaluation_cost(run, Execution(evaluation_tokens=4096))
    assert half.cache == pytest.approx(cost.cache / 2, rel=0.05) and half.weights == cost.weights
    # A step of generation reads all weights and the cache: it cannot be faster than the memory.
    least = cost.batches * cost.steps * (cost.weights + cost.cache) / 4.8e12
    assert cost.assumed_seconds(H200) > least
    # Beside the texts, the likelihoods of the gold answers: a second pass over prompts with their options.
    size, linears = run.evaluation_size, sum(linear.parameters for linear in ModelSizes(run).linears)
    assert size.scored > size.tokens and cost.passes == 1 + math.ceil(size.scored / size.tokens)
    assert cost.flops > 2 * linears * 8000 * (1 + size.scored / size.tokens)
    classifier = evaluation_cost(spec("roberta", {"name": "lora"}), Execution())
    assert classifier.cache == 0 and classifier.steps == 0
    sharded = evaluation_cost(run, Execution(devices=4, strategy="fsdp"))
    assert sharded.weights < cost.weights / 2  # and the adapter, which is not merged
