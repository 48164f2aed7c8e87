"""One of two processes that hold halves of a model: what it computes is what the whole model computes.

Arguments: rank, a folder for the processes to meet in.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from repro.adapters.bottleneck import BottleneckConfig
from repro.adapters.dual_lora import DualLoraConfig
from repro.adapters.mora import MoraConfig

VARIANTS: list[dict[str, Any]] = [
    {},
    {"warmup": "subtract_initial"},
    {"direction": "fixed"},
    {"sign_estimator": "dorefa"},
    {"sign_estimator": "xnor"},
    {"clip": "bnn"},
]
PLAN = {"up": ColwiseParallel(), "down": RowwiseParallel()}


class TwoLayers(nn.Module):
    """The second shard begins within a word of 32 random signs."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(12, 38)
        self.down = nn.Linear(38, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)))  # type: ignore[no-any-return]


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def adapt(model: nn.Module, variant: dict[str, Any], seed: int) -> Any:
    torch.manual_seed(seed)
    settings = {"magnitude_rank": 3, "init_std": 0.4, "warmup": "none", "target_modules": ["up", "down"]}
    return get_peft_model(model, DualLoraConfig(**settings | variant))  # type: ignore[arg-type]


def check(variant: dict[str, Any], mesh: Any, rank: int) -> None:
    torch.manual_seed(0)
    base = TwoLayers()
    # The seeds of the processes differ: a new adapter is nevertheless the same on both.
    sharded = adapt(parallelize_module(copy.deepcopy(base), mesh, PLAN), variant, seed=10 + rank)
    factors = [parameter for parameter in sharded.parameters() if parameter.requires_grad]
    for factor in factors:
        others = [torch.empty_like(factor) for _ in range(2)]
        dist.all_gather(others, factor.detach())
        assert torch.equal(*others)
    with torch.no_grad():  # dW - dW(0) moves from zero
        for factor in factors:
            factor += 0.1 * torch.randn(factor.shape, generator=torch.Generator().manual_seed(factor.numel()))
    reference = adapt(base, variant, seed=0)
    reference.load_state_dict({key: whole(value) for key, value in sharded.state_dict().items()})

    generator = torch.Generator().manual_seed(5)
    x, weights = torch.randn(2, 5, 12, generator=generator), torch.randn(2, 5, 12, generator=generator)
    found, outputs = [], []
    for model in (reference, sharded):
        inputs = x.clone().requires_grad_()
        output = model(inputs)
        (output * weights).sum().backward()
        gradients = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
        assert gradients and all(gradient is not None for gradient in gradients.values())
        found.append({**gradients, "x": inputs.grad})
        with torch.no_grad():
            evaluated = model(x)
        torch.testing.assert_close(evaluated, output.detach())
        outputs.append(output)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    with torch.no_grad(), sharded.disable_adapter():
        assert not torch.allclose(sharded(x), outputs[0], atol=1e-2)
    for key, gradient in found[0].items():
        torch.testing.assert_close(
            found[1][key], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}"
        )

    before = whole(sharded.base_model.model.up.weight).clone()
    for model in (reference, sharded):
        model.merge_adapter(safe_merge=True)
    for layer in ("up", "down"):
        merged, expected = (getattr(m.base_model.model, layer).weight for m in (sharded, reference))
        assert isinstance(merged, DTensor)
        torch.testing.assert_close(whole(merged), whole(expected).detach(), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(sharded(x), outputs[0].detach(), rtol=1e-4, atol=1e-5)
    sharded.unmerge_adapter()
    assert torch.equal(whole(sharded.base_model.model.up.weight), before)


def check_refusal(config: PeftConfig, mesh: Any) -> None:
    """A tuner that cannot do it says so: MoRA would cut or repeat its input to any width."""
    model: Any = get_peft_model(parallelize_module(TwoLayers(), mesh, PLAN), config)  # type: ignore[arg-type]
    try:
        model(torch.zeros(2, 12))
    except NotImplementedError as error:
        assert "needs the whole weight of its layer (got a DTensor" in str(error)
    else:
        raise AssertionError(f"{config.peft_type} computes with half a weight")


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for variant in VARIANTS:
        check(variant, mesh, rank)
    for config in (MoraConfig(target_modules=["down"]), BottleneckConfig(target_modules=["down"])):
        check_refusal(config, mesh)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
