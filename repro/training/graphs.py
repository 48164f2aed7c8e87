"""Training passes as CUDA graphs: a pass's kernels are recorded once for each shape, then launched at once.

A pass of a small model is thousands of short kernels, which a GPU works off faster than Python launches them.
`torch.compile(mode="reduce-overhead")` also records graphs, but of code that it compiles first: a minute for
each shape and tuner, other kernels with other rounding, and several graphs where it cannot trace a tuner.
Here a pass launches the kernels that it launches eagerly: forward, backward and the gradients' sum.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]
Pass = Callable[[Inputs], Tensor]
"""Forward and backward over one micro-batch: adds to the gradients and returns the detached loss."""

# More shapes than any training has whose rows are packed to a few widths (`repro.training.packing`).
MOST_SHAPES = 32


class Recorder(Protocol):
    """What records and replays work of a device."""

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Do the work where it will be recorded, so that whatever is set up once is set up before."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """What replays the work, and the tensor that then holds its result. Recording computes nothing."""


class GraphedPasses:
    """Repeats a pass, as one graph for each set of input shapes.

    The first pass of a shape is eager and warms up, the second is recorded, and all others replay it. If
    recording fails, every further pass is eager, and so is that of a shape beyond `MOST_SHAPES`.

    Graphs add to the gradients where they lie. So the gradients are kept in the same tensors, and
    `clear_gradients` replaces the optimiser's `zero_grad`. Make this object after an optimiser step, before
    its gradients are cleared: parameters without one keep none, and what a first step sets up is done.

    Attributes:
        problem: why recording failed, in a line; None if it did not.
    """

    def __init__(self, run: Pass, parameters: Iterable[nn.Parameter], recorder: Recorder) -> None:
        self.problem: str | None = None
        self._run = run
        self._recorder = recorder
        with_gradient, self._without = _parted(parameters)
        self._gradients = [(parameter, torch.zeros_like(parameter)) for parameter in with_gradient]
        self._warm: set[tuple] = set()
        self._graphs: dict[tuple, tuple[Inputs, Callable[[], None], Tensor]] = {}
        self.clear_gradients()

    def clear_gradients(self) -> None:
        """Zero the gradients, in the tensors that the graphs add to."""
        for parameter in self._without:
            parameter.grad = None
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        if self._gradients:
            torch._foreach_zero_([gradient for _, gradient in self._gradients])

    def __call__(self, inputs: Inputs) -> Tensor:
        """The pass over a micro-batch; the loss is a tensor of its own."""
        shape = tuple((name, tensor.shape, tensor.dtype) for name, tensor in inputs.items())
        if shape in self._warm and shape not in self._graphs and self.problem is None:
            self._record(shape, inputs)
        if shape in self._graphs:
            fixed, replay, loss = self._graphs[shape]
            for name, tensor in inputs.items():
                fixed[name].copy_(tensor)
            replay()
            return loss.clone()  # which the next replay overwrites
        if self.problem is not None or len(self._warm) == MOST_SHAPES:
            return self._run(inputs)
        self._warm.add(shape)
        loss = self._recorder.warm_up(lambda: self._run(inputs))
        if any(parameter.grad is not None for parameter in self._without):
            self.problem = "a parameter without a gradient in the first step has one later"
            self._graphs.clear()
        return loss

    def _record(self, shape: tuple, inputs: Inputs) -> None:
        fixed = {name: tensor.clone() for name, tensor in inputs.items()}
        try:
            replay, loss = self._recorder.record(lambda: self._run(fixed))
        except Exception as error:  # whatever it is, an eager pass over the same inputs follows
            # The end of a recording that failed is an error of its own, which says less.
            first = error.__context__ or error
            self.problem = f"{type(first).__name__}: {first}".strip().splitlines()[0]
        else:
            self._graphs[shape] = fixed, replay, loss


def _parted(parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Those with a gradient, and those without."""
    every = list(parameters)
    return [p for p in every if p.grad is not None], [p for p in every if p.grad is None]


class CudaRecorder:
    """CUDA graphs of the current device, which share one pool of memory: they never run at the same time."""

    # torch's allocator refers to a graph whose recording failed, so none is ever freed.
    _failed: ClassVar[list[torch.cuda.CUDAGraph]] = []

    def __init__(self) -> None:
        # An earlier pass that still lives in a cycle of references would hold gradients' nodes of its stream.
        gc.collect()
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        # On the stream that records, where autograd's nodes and the workspaces of cuBLAS then belong.
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer context returns to the current stream; after an error `torch.cuda.graph` does not.
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream),
            ):
                result = work()
        except BaseException:
            self._failed.append(graph)
            raise
        return graph.replay, result
