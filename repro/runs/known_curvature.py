"""Stored curvatures, readable without torch; `repro.analysis.curvature` computes them."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, FiniteFloat

from repro.config import Frozen
from repro.plans.spec import RunSpec
from repro.reading import excerpt
from repro.runs.json_files import DamagedFile, read_json

_REMEDY = "delete it to work it out again"


class Curvature(Frozen):
    """The curvature of the training loss where runs start, the same for all learning rates.

    Attributes:
        start: name of the start, see `start_of`.
        largest: the largest eigenvalue of the Hessian; see `repro.analysis.curvature`.
        parameters: its size: how many trained parameters the loss has derivatives of.
        examples, targets: training examples of the mean loss, and the tokens or classes they predict.
        products: Hessian-vector products that were computed.
        seconds: the time they took.
    """

    start: str
    largest: FiniteFloat
    parameters: int = Field(gt=0)
    examples: int = Field(gt=0)
    targets: int = Field(gt=0)
    products: int = Field(gt=0)
    seconds: float = Field(ge=0)


def start_of(spec: RunSpec) -> RunSpec:
    """The spec without what does not change a run's start: the learning rate, and fp32 for its precision."""
    content = spec.model_dump(mode="json")
    content["training"] |= {"learning_rate": 1.0, "precision": "fp32"}
    # Not a copy, which would keep the hash of the spec.
    return RunSpec.model_validate_json(json.dumps(content))


def curvature_file(spec: RunSpec, folder: Path) -> Path:
    """Where the curvature of a run's start is stored in the results folder `folder`."""
    return folder / "curvature" / f"{start_of(spec).slug}.json"


def known_curvature(spec: RunSpec, folder: Path) -> Curvature | None:
    """The stored curvature of a run's start; None if it is not computed yet.

    Raises:
        DamagedFile: there is a file, but it cannot be understood, or is of another start.
    """
    path = curvature_file(spec, folder)
    found = read_json(path, Curvature, _REMEDY)
    if found is not None and found.start != path.stem:
        raise DamagedFile(f"{path}: of another start, {excerpt(found.start)}; {_REMEDY}")
    return found
