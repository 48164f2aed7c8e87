"""What a pass of a layer dispatches on a GPU, counted on a CPU: the kernels' launches are left out.

Every small operation there costs a launch and some Python, which on an H200 took nine tenths of the time
above the three matrix products.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from repro.adapters.dual_lora import DualLoraConfig, Update, backend

D_OUT, D_IN = 12, 20
PRODUCTS = {"aten.mm.default", "aten.addmm.default"}
# They hand out memory or another view of it, and start nothing on a GPU.
VIEWS = {"aten.view.default", "aten.t.default", "aten.detach.default"}


class Kernels:
    """In the place of `triton_kernels`: it launches nothing, and counts."""

    NAME = "triton"

    def __init__(self) -> None:
        self.updated = torch.zeros(D_OUT, D_IN)
        self.signs = torch.zeros(D_OUT, 1, dtype=torch.int32)
        self.launches = 0

    def block_elements(self, device: torch.device) -> int:
        return 2**28

    def whole_weight(self, weight: Tensor, update: Update, dtype: torch.dtype, with_signs: bool) -> Any:
        self.launches += 1
        return self.updated.to(dtype), self.signs if with_signs else None

    def whole_backward(self, G: Tensor, weight: Tensor | None, update: Update, signs: Tensor | None) -> Any:
        assert signs is self.signs
        self.launches += 2  # the tiles, and the sums of their parts
        gradients = tuple(factor.detach() for factor in update.factors)
        return None if weight is None else self.updated.to(G.dtype), gradients


class Dispatched(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))

    def products(self) -> int:
        return sum(n for name, n in self.count.items() if name in PRODUCTS)

    def small(self) -> Counter[str]:
        return Counter({name: n for name, n in self.count.items() if name not in PRODUCTS})


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    kernels = Kernels()
    monkeypatch.setattr(backend, "choose", lambda *_: kernels)
    return kernels


@pytest.mark.parametrize("direction", ["sign", "identity", "fixed"])
def test_a_pass_is_its_kernels_its_products_and_three_views(direction: Any, kernels: Kernels) -> None:
    torch.manual_seed(0)
    fixed = {"direction_rank": None} if direction == "fixed" else {}
    clip = {} if direction == "sign" else {"clip": "none"}
    config = DualLoraConfig(magnitude_rank=2, target_modules=["0"], direction=direction, **fixed, **clip)
    model = get_peft_model(nn.Sequential(nn.Linear(D_IN, D_OUT)), config).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    x = torch.randn(2, 3, D_IN, requires_grad=True)
    model(x).sum().backward()  # the first pass looks for the optimiser that advances the ramp
    optimizer.step()
    optimizer.zero_grad()
    x.grad, kernels.launches = None, 0

    with Dispatched() as forward:
        y = model(x)
    assert kernels.launches == 1
    assert forward.products() == 1
    assert forward.small().total() <= 3, forward.count
    assert forward.small().keys() <= VIEWS

    upstream = torch.ones_like(y)
    with Dispatched() as backward:
        y.backward(upstream)
    assert kernels.launches == 1 + 2
    assert backward.products() == 2
    # Apart from the gradients that autograd hands over to `.grad`, a `detach` each.
    backward.count["aten.detach.default"] = 0
    assert backward.small().total() <= 3, backward.count
    assert backward.small().keys() <= VIEWS
