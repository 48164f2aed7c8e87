"""The cost that a method states, against torch's count of operations and the tensors that are alive."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import inject_adapter_in_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from repro.adapters.dual_lora import backend
from repro.methods import METHODS, Method, PeftMethod, dual_lora, parse_method
from repro.models import LinearShape, linear_shapes, load_model_spec
from repro.models.loading import load_model

SPEC = load_model_spec("tiny-llama")
TARGETS = SPEC.targets_for("commonsense")
BASE = load_model(SPEC, "causal_lm")
TOKENS = 96

# Methods without a linear map of the model that they adapt one by one; Adapter-L follows whole blocks.
WITHOUT_A_MAP = {"base", "prefix", "adapter_l"}
# Of all FLOPs. What does not grow with the tokens, such as scaling RandLoRA's bases, may be left out.
TOLERANCE = 0.05


def methods() -> Iterator[Method]:
    for name, cls in METHODS.items():
        if name not in WITHOUT_A_MAP:
            yield parse_method({"name": name, **({"rank": 8} if "rank" in cls.model_fields else {})})
    yield parse_method({"name": "dora", "rank": 8, "dropout": 0.0})
    yield parse_method({"name": "mora", "rank": 8, "compression": "sharing"})
    for settings in (
        {"direction": "fixed"},
        {"direction": "identity"},
        {"sign_estimator": "xnor"},
        {"warmup": "subtract_initial"},
    ):
        yield parse_method({"name": "dual_lora", "magnitude_rank": 4, **settings})


def attached(method: Method) -> nn.Module:
    torch.manual_seed(0)
    base = copy.deepcopy(BASE)
    if method.calibration_examples:
        tokens = torch.arange(4, 36).reshape(2, 16)
        method.calibrate(base, [{"input_ids": row[None]} for row in tokens], TARGETS, "causal_lm")
    return method.attach(base, TARGETS, "causal_lm").train()


def adapted(layer: nn.Linear, method: PeftMethod) -> nn.Module:
    """A linear layer under the method, in training."""
    torch.manual_seed(0)
    method.layer_class()  # makes a tuner of ours known to peft
    model = nn.ModuleDict({"up": layer})
    return inject_adapter_in_model(method.peft_config(["up"], "CAUSAL_LM", model), model)["up"].train()


def counted(layer: nn.Module, in_features: int) -> int:
    """FLOPs of a forward and a backward pass, with a gradient for the input."""
    x = torch.randn(TOKENS, in_features, requires_grad=True)
    with backend.torch_only(), FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    return counter.get_total_flops()


def shown(method: Method) -> str:
    return "-".join(str(value) for value in method.model_dump(exclude_defaults=True).values())


@pytest.mark.parametrize("method", methods(), ids=lambda m: f"{m.name}-{shown(m)}")
@pytest.mark.parametrize("name", ["up_proj", "down_proj"])
def test_a_layer_takes_about_the_operations_that_the_method_says(method: Method, name: str) -> None:
    shape = next(s for s in linear_shapes(SPEC.architecture, TARGETS) if s.name.endswith(name))
    layer = next(m for n, m in attached(method).named_modules() if n.endswith(name))
    expected = method.flops_per_weight * TOKENS * shape.parameters
    if method.adapted([shape]):
        expected += method.adapter_cost(shape, TOKENS).flops
    assert counted(layer, shape.in_features) == pytest.approx(expected, rel=TOLERANCE)


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, while they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {storage._cdata for storage in storages((args, kwargs))}
        for storage in storages(result):
            if storage._cdata not in given | self._known.keys():
                self._known[storage._cdata] = storage.nbytes()
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata)
        self.peak = max(self.peak, self.bytes)
        return result

    def _freed(self, address: int) -> None:
        self.bytes -= self._known.pop(address)


def storages(content: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(content) if isinstance(leaf, Tensor)]


def alive(layer: nn.Module, in_features: int, tokens: int, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes after the forward pass, and at the peak of forward and backward pass."""
    x = torch.randn(tokens, in_features, requires_grad=True)
    with Alive() as counter:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            y = layer(x)
        kept = counter.bytes
        y.sum().backward()
    layer.zero_grad(set_to_none=True)
    return kept, counter.peak


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({"name": "lora", "rank": 8}, torch.float32),
        ({"name": "dora", "rank": 8}, torch.float32),
        ({"name": "hira", "rank": 8}, torch.float32),
        ({"name": "loha", "rank": 8}, torch.float32),
        ({"name": "randlora", "rank": 8}, torch.float32),
        ({"name": "dual_lora", "magnitude_rank": 4}, torch.bfloat16),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_a_layer_keeps_and_builds_what_the_method_says(settings: dict[str, Any], dtype: torch.dtype) -> None:
    method, shape = parse_method(settings), LinearShape("up", 1024, 512)
    layer = adapted(nn.Linear(512, 1024, bias=False, dtype=dtype), method)
    # Subtracts what grows with the tokens. The gradients of the factors remain, about 3 % of a weight; 6 %
    # are missing, the signs that only the kernels of a GPU keep.
    with backend.torch_only():
        (kept, peak), (kept_twice, peak_twice) = (alive(layer, 512, tokens, dtype) for tokens in (64, 128))
    cost, weight = method.adapter_cost(shape, 0), 4 * shape.parameters
    assert (2 * kept - kept_twice) / weight == pytest.approx(4 * cost.kept / weight, abs=0.08)
    expected = 4 * (cost.kept + cost.transient) / weight
    assert (2 * peak - peak_twice) / weight == pytest.approx(expected, abs=0.08)


def test_a_large_update_needs_what_the_kernels_of_a_gpu_allocate() -> None:
    """W0 + dW and G in bf16, and the parts of the gradients."""
    from repro.adapters.dual_lora import terms

    assert dual_lora._TORCH_BLOCK == terms.ACCELERATOR_BLOCK
    wide = LinearShape("down_proj", 8192, 28672)
    half_ranks = parse_method({"name": "dual_lora", "magnitude_rank": 16, "direction_rank": 16})
    assert half_ranks.adapter_cost(wide, 1).transient == 1.5 * 8192 * 28672
    # The whole of a larger one is never built.
    larger = LinearShape("lm_head", 128256, 8192)
    assert half_ranks.adapter_cost(larger, 1).transient == 1.5 * 2**28
