"""The identity of a run: everything that can change its numbers, typed, frozen and hashed.

Two tables that need the same run ask for the same hash, so it is trained once. What cannot change a number
(the machine, the size of micro-batches, where logs go) lives in `repro.plans.execution`, not in the hash.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from repro.benchmarks.base import Benchmark, parse_benchmark
from repro.config import Frozen, added
from repro.methods.base import Method
from repro.methods.registry import parse_method
from repro.models.spec import ModelSpec
from repro.training.spec import TrainingSpec

# Raised when a spec changes its meaning but not its fields: old results must not be taken for new ones.
SPEC_VERSION = 1


class InitFrom(Frozen):
    """A finished run that another one starts from, instead of from the pretrained model.

    Attributes:
        reading: `adapter`, and the run goes on from the trained adapter and head; `merged`, and the trained
            adapter is merged into the base model, on which the run puts a fresh one of its own.
        run: what it starts from. What does not fit in shape, a classifier's last layer, starts anew.
    """

    reading: Literal["adapter", "merged"]
    run: RunSpec

    @model_validator(mode="after")
    def _fits(self) -> InitFrom:
        if self.reading == "merged" and not self.run.method.mergeable:
            raise ValueError(f"method {self.run.method.name} cannot be merged; start from a LoRA run instead")
        return self


class RunSpec(Frozen):
    """One training and its evaluation, at one seed.

    Attributes:
        targets: the modules that are adapted, where they are not those of the model's file.
        init_from: the run that this one starts from.
    """

    version: int = SPEC_VERSION
    model: ModelSpec
    method: Annotated[SerializeAsAny[Method], BeforeValidator(parse_method)]
    benchmark: Annotated[SerializeAsAny[Benchmark], BeforeValidator(parse_benchmark)]
    training: TrainingSpec
    seed: int = Field(ge=0)
    targets: tuple[str, ...] | None = added(None)
    init_from: InitFrom | None = added(None)

    @property
    def adapted_modules(self) -> tuple[str, ...]:
        """Names of the modules to adapt, by the end of their path."""
        return self.targets or self.model.targets_for(self.benchmark.family)

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits of the canonical JSON's SHA-256: 10^4 runs collide with odds of 2 in 10^7."""
        return hashlib.sha256(canonical_json(self).encode()).hexdigest()[:12]

    @property
    def slug(self) -> str:
        """A name for people and folders: what the run is, then its hash."""
        what = f"{self.benchmark.family}-{self.task}" if self.task else self.benchmark.family
        return f"{what}--{self.model.name}--{self.method.name}--seed{self.seed}--{self.hash}"

    @property
    def task(self) -> str:
        """The task that is trained by itself; empty where a run trains all of the benchmark."""
        return "-".join(self.benchmark.columns) if self.benchmark.run_per_task else ""

    @property
    def title(self) -> str:
        """A name for people: model, method, task and seed."""
        return " ".join(filter(None, [self.model.name, self.method.name, self.task, f"seed {self.seed}"]))


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
