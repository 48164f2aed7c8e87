"""The largest eigenvalue of the training loss's Hessian where a run starts.

The number is the algebraically largest eigenvalue of the Hessian of the mean training loss of the first
optimiser batches with respect to the trained parameters, at their initial values, in fp32, without dropout
and with the whole update (after the ramp of Dual LoRA's warm-up). Gradient descent without momentum is stable
at rates below 2 / lambda; that variants of LoRA differ in lambda explains in part why they differ in their
best rate (arXiv 2602.04998, which takes single modules; here all of a run's parameters are taken together).

Two methods train by gradients that are no derivatives of their loss:

- Where Dual LoRA's direction is a sign, the loss does not change with C and D but jumps where a sign turns:
  its second derivatives by them are 0 or do not exist, and the straight-through gradient's derivatives are
  those of no function. The Hessian is then that by A and B, with the initial signs.
- DoRA takes the norm of its direction as a constant in the backward pass, and so does its Hessian here.

ARPACK's Lanczos method finds the eigenvalue from products of the Hessian with vectors, each a derivative of
the gradient.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from repro.adapters.dual_lora.layer import DualLoraLayer
from repro.config import ConfigError
from repro.models.loading import load_tokenizer
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.build import context_of
from repro.runs.json_files import write_json
from repro.runs.known_curvature import Curvature, curvature_file, known_curvature, start_of
from repro.runs.starting import untrained_model
from repro.runs.store import Store

# Examples of a pass: second derivatives keep every tensor of the first backward pass.
_EXAMPLES = 4
# Of ARPACK: Lanczos vectors that it keeps, and the residual at which an eigenvalue counts as found, relative
# to it. The eigenvalue's own error is of the order of the square.
_VECTORS = 8
_RESIDUAL = 1e-2


def run_curvature(spec: RunSpec, store: Store, bases: BaseModels, batches: int) -> Curvature:
    """The curvature at the start of a run, over its first optimiser batches, stored beside the store's runs.

    What is stored already is returned, whatever its number of batches.

    Raises:
        ConfigError: the method trains nothing, or starts from training examples.
    """
    folder = store.folder.parent
    known = known_curvature(spec, folder)
    if known is not None:
        return known
    if not spec.method.trains:
        raise ConfigError(f"{spec.slug}: {spec.method.name} trains nothing, so that its loss has no Hessian")
    began = time.monotonic()
    start = start_of(spec)
    model = untrained_model(start, store, bases).eval()
    context = context_of(start, load_tokenizer(spec.model), _EXAMPLES, evaluation_tokens=1)
    data = start.benchmark.data(context)
    module = start.benchmark.module(model, context, data.steps)
    taken = list(islice(iter(data.train_dataloader()), batches))
    passes = [micro_batch for batch in taken for micro_batch in batch["micro_batches"]]
    targets = sum(batch["targets"] for batch in taken)
    parameters = differentiable(model)
    count = 0

    def product(vector: Sequence[Tensor]) -> list[Tensor]:
        nonlocal count
        count += 1
        return hessian_product(
            lambda: (module.loss_sum(dict(micro_batch)) / targets for micro_batch in passes),
            parameters,
            vector,
        )

    largest = largest_eigenvalue(product, parameters)
    found = Curvature(
        start=start.slug,
        largest=float(f"{largest:.4g}"),
        parameters=sum(parameter.numel() for parameter in parameters),
        examples=sum(map(len, data.first_batches(batches))),
        targets=targets,
        products=count,
        seconds=round(time.monotonic() - began, 1),
    )
    write_json(curvature_file(spec, folder), found)
    return found


def differentiable(model: nn.Module) -> list[nn.Parameter]:
    """The trained parameters by which the loss has derivatives: all but the factors of a sign."""
    signs = {
        id(factors[adapter])
        for layer in model.modules()
        if isinstance(layer, DualLoraLayer)
        for adapter in layer.active_adapters
        if layer.rule[adapter].direction == "sign"
        for factors in (layer.dual_lora_C, layer.dual_lora_D)
    }
    return [p for p in model.parameters() if p.requires_grad and id(p) not in signs]


def hessian_product(
    losses: Callable[[], Iterator[Tensor]], parameters: Sequence[Tensor], vector: Sequence[Tensor]
) -> list[Tensor]:
    """The product of a vector with the Hessian of a sum of losses, in tensors of the parameters' shapes.

    Args:
        losses: computes the parts of the loss anew, each a scalar with a graph, one after the other.
    """
    total = [torch.zeros_like(parameter) for parameter in parameters]
    # The fused kernels of attention have no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        for loss in losses():
            gradients = torch.autograd.grad(loss, parameters, create_graph=True)
            products = torch.autograd.grad(gradients, parameters, vector, materialize_grads=True)
            for part, product in zip(total, products, strict=True):
                part += product
    return total


def largest_eigenvalue(
    product: Callable[[Sequence[Tensor]], Sequence[Tensor]], parameters: Sequence[Tensor]
) -> float:
    """The algebraically largest eigenvalue of a symmetric matrix that is known by its products.

    It starts from the same random vector each time, so that a repetition gives the same number.
    """
    sizes = [parameter.numel() for parameter in parameters]
    dtype: Any = torch.empty((), dtype=parameters[0].dtype).numpy().dtype

    def multiply(flat: NDArray[Any]) -> NDArray[Any]:
        pieces = torch.from_numpy(np.ascontiguousarray(flat.reshape(-1), dtype)).split(sizes)
        vector = [piece.view_as(p).to(p) for piece, p in zip(pieces, parameters, strict=True)]
        return torch.cat([part.reshape(-1).cpu() for part in product(vector)]).numpy()

    size = sum(sizes)
    operator = LinearOperator((size, size), matvec=multiply, dtype=dtype)
    first = np.random.default_rng(0).standard_normal(size).astype(dtype)
    vectors = min(size, _VECTORS)
    (value,) = eigsh(operator, 1, which="LA", v0=first, ncv=vectors, tol=_RESIDUAL, return_eigenvectors=False)
    return float(value)
