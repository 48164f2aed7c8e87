"""A pass as one CUDA graph: the GPU's own work, without Python and launches."""

from __future__ import annotations

import torch

from repro.speed.layer import Pass


class Graph:
    """One call of a pass, captured. It keeps the pass, in whose tensors the graph reads and writes."""

    def __init__(self, run: Pass) -> None:
        self._run = run
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            run()

    def __call__(self) -> None:
        self._graph.replay()


def captured(run: Pass, device: str) -> Pass:
    """One call of `run` as a graph to be replayed; on a CPU, which has no graphs, `run` itself.

    Gradients that `run` sets to None before its forward pass are allocated in the graph's own memory, as
    torch's notes on CUDA graphs recommend.

    Raises:
        RuntimeError: the pass does something that a graph cannot hold, such as waiting for the GPU.
    """
    if device != "cuda":
        return run
    # What first calls set up (kernels compiled, workspaces allocated) is done before, on a side stream.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    return Graph(run)
