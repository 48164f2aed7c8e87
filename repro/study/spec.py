"""The identity of a run: everything that can change its numbers, typed, frozen and hashed.

Two tables that need the same run ask for the same hash, so it is trained once. What cannot change a number
(the machine, the size of micro-batches, where logs go) lives in `repro.study.execution`, not in the hash.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny

from repro.benchmarks.base import Benchmark, parse_benchmark
from repro.benchmarks.training import TrainingSpec
from repro.config import Frozen
from repro.methods.base import Method
from repro.methods.registry import parse_method
from repro.models.spec import ModelSpec

# Raised when a spec changes its meaning but not its fields: old results must not be taken for new ones.
SPEC_VERSION = 1


class RunSpec(Frozen):
    """One training and its evaluation, at one seed."""

    version: int = SPEC_VERSION
    model: ModelSpec
    method: Annotated[SerializeAsAny[Method], BeforeValidator(parse_method)]
    benchmark: Annotated[SerializeAsAny[Benchmark], BeforeValidator(parse_benchmark)]
    training: TrainingSpec
    seed: int = Field(ge=0)

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits of the canonical JSON's SHA-256: 10^4 runs collide with odds of 2 in 10^7."""
        return hashlib.sha256(canonical_json(self).encode()).hexdigest()[:12]

    @property
    def slug(self) -> str:
        """A name for people and folders: what the run is, then its hash."""
        return f"{self.benchmark.family}--{self.model.name}--{self.method.name}--seed{self.seed}--{self.hash}"


def canonical_json(spec: Frozen) -> str:
    """The one JSON text of a spec: sorted keys, no spaces, floats as Python's shortest exact form."""
    return json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def flatten(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted keys; lists are values."""
    if not isinstance(content, dict):
        return {prefix: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat
