"""The rank analysis of an update compared with LAPACK's singular values of the same matrix, in fp64."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from repro.analysis.rank import rank
from repro.runs.measurements import Measurement
from repro.speed.conditions import Conditions, Found
from repro.speed.timing import ratio, take_turns


def figures(conditions: Conditions) -> Iterator[Found]:
    """Time of a matrix's ranks, relative to the time of its singular values."""
    size = 64 if conditions.small else 2048
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = take_turns(
        {"lapack": lambda: torch.linalg.svdvals(matrix), "ours": lambda: rank(matrix)},
        rounds=1 if conditions.small else 5,
        budget=conditions.budget,
    )
    found = rank(matrix).numerical
    if found != size:
        raise RuntimeError(f"a Gaussian matrix of {size} x {size} has full rank; {found} was found")
    yield Measurement(
        name="rank analysis / LAPACK's singular values",
        at=f"{size} x {size}, fp64",
        ratio=ratio(times["ours"], times["lapack"]),
        target=1.1,
        note=f"{times['ours'].median:.2f} s; rank {found}",
    )
