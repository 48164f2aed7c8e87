"""The spec of a run: every setting that can change its results, typed, frozen and hashed.

Tables that share a run have the same hash for it, so it is trained once. Settings that cannot change results
(device, micro-batch size, logging) are in `repro.plans.execution` and are not hashed.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from repro.benchmarks.base import Benchmark, EvaluationSize, TrainingSize, parse_benchmark
from repro.config import Frozen, Line, Seed, added
from repro.methods.base import Method, MethodError
from repro.methods.registry import parse_method
from repro.models.shapes import base_parameters, block_shapes, linear_shapes
from repro.models.spec import ModelSpec
from repro.training.spec import TrainingSpec

# A new version when the meaning of a spec changes but its fields do not, so that old results are not reused.
SPEC_VERSION = 1
# Since this version, masks of dropout do not depend on the micro-batch (`repro.training.dropout`).
DROPOUT_VERSION = 2


def _version(fields: dict[str, Any]) -> int:
    """The version of a run with these fields. Runs without dropout keep theirs: nothing changed in them."""
    if "method" not in fields or "model" not in fields:  # invalid, which is said elsewhere
        return SPEC_VERSION
    method, model = fields["method"], fields["model"]
    drops_out = method.trains and (model.drops_out or getattr(method, "dropout", 0.0) > 0)
    return DROPOUT_VERSION if drops_out else SPEC_VERSION


class InitFrom(Frozen):
    """A finished run that another run starts from, instead of the pretrained model.

    Attributes:
        reading: `adapter` continues with the trained adapter and head; `merged` merges the trained adapter
            into the base model and attaches a fresh adapter.
        run: spec of that run. Weights whose shape differs, such as a classifier's last layer, are not loaded.
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
        targets: modules to adapt; None uses those of the model's file.
        init_from: the run that this one starts from; None starts from the pretrained model.
    """

    model: ModelSpec
    method: Annotated[SerializeAsAny[Method], BeforeValidator(parse_method)]
    version: int = Field(default_factory=_version)
    benchmark: Annotated[SerializeAsAny[Benchmark], BeforeValidator(parse_benchmark)]
    training: TrainingSpec
    seed: Seed
    targets: tuple[Line, ...] | None = added(None, min_length=1)
    init_from: InitFrom | None = added(None)

    @model_validator(mode="after")
    def _parts_fit(self) -> RunSpec:
        task = self.benchmark.model_task
        if (task == "causal_lm") != self.model.causal:
            kind = "a causal model" if self.model.causal else "an encoder"
            raise ValueError(f"model {self.model.name} is {kind}, and {self.benchmark.family} needs {task}")
        try:
            self.method.check_model_type(self.model.architecture["model_type"])
        except MethodError as error:
            raise ValueError(f"method: {error}") from error
        try:
            shapes = block_shapes(self.model.architecture, self.adapted_modules)
            self.method.adapted(shapes)
            self.method.trainable_parameters(shapes, base_parameters(self.model.architecture))
        except (ValueError, MethodError) as error:
            raise ValueError(f"targets: {error}") from error
        self._check_training()
        smallest = min((min(shape.out_features, shape.in_features), shape.name) for shape in shapes)
        for key, rank in self.method.ranks.items():
            if rank > smallest[0]:
                raise ValueError(
                    f"method.{key}: {rank} is no low rank (allowed: up to {smallest[0]}, the smaller side of "
                    f"{smallest[1]} in {self.model.name})"
                )
        return self

    def _check_training(self) -> None:
        """Refuse a training for which there is too little data, as far as its size is known without it."""
        training, benchmark, method = self.training, self.benchmark, self.method
        if not method.trains or (len(benchmark.columns) > 1 and benchmark.run_per_task):
            return
        if training.selection == "best_validation_score" and not benchmark.validates_by_score:
            raise ValueError(
                f"training.selection: {benchmark.family} has no validation score; take best_validation_loss"
            )
        if training.selection != "last" and getattr(benchmark, "validation_size", 1) == 0:
            raise ValueError(
                f"training.selection: {training.selection} needs a benchmark.validation_size above 0"
            )
        if getattr(benchmark, "source", "local") == "local":
            return
        examples = self.training_size.examples
        if examples < 1:
            raise ValueError("benchmark.validation_size: it leaves no example to train on; lower it")
        if method.calibration_examples > examples:
            raise ValueError(
                f"method: {method.name} starts from {method.calibration_examples} training examples, and "
                f"there are {examples}; ask for fewer"
            )
        steps, every = training.steps(examples), training.validation_interval(examples)
        if training.selection != "last" and every is not None and every > steps:
            raise ValueError(f"training.validate_every: {every} is above the number of steps, {steps}")

    @property
    def current_version(self) -> int:
        """The version that this code gives to such a run."""
        return _version({"method": self.method, "model": self.model})

    @cached_property
    def evaluates(self) -> RunSpec | None:
        """The run whose trained adapter this one only evaluates; None where it trains one, or has none."""
        method = self.method.evaluates
        if method is None:
            return None
        fields = {name: getattr(self, name) for name in RunSpec.model_fields}
        return RunSpec(**fields | {"method": method})

    @property
    def trains(self) -> bool:
        """Whether the run trains anything."""
        return self.method.trains and self.evaluates is None

    @property
    def parent(self) -> RunSpec | None:
        """The run that must be done before this one begins, if there is one."""
        return self.evaluates or (self.init_from.run if self.init_from else None)

    @property
    def needed(self) -> tuple[RunSpec, ...]:
        """All such runs, the first to execute first."""
        return () if self.parent is None else (*self.parent.needed, self.parent)

    @property
    def adapted_modules(self) -> tuple[str, ...]:
        """Names of the modules to adapt, matched against the end of a module's path."""
        return self.targets or self.model.targets_for(self.benchmark.family)

    @property
    def training_size(self) -> TrainingSize:
        """The size of one epoch, computed without the data."""
        return self.benchmark.training_size(self.training, self.model.architecture["vocab_size"])

    @property
    def evaluation_size(self) -> EvaluationSize:
        """The size of the test set, computed without the data."""
        return self.benchmark.evaluation_size(self.model.architecture["vocab_size"])

    @property
    def trained_parameters(self) -> int:
        """Number of parameters that the method trains, without a classifier's head."""
        shapes = linear_shapes(self.model.architecture, self.adapted_modules)
        return self.method.trainable_parameters(shapes, base_parameters(self.model.architecture))

    @property
    def trains_base(self) -> bool:
        """Whether the method trains every weight of the model."""
        return self.trained_parameters == base_parameters(self.model.architecture)

    @cached_property
    def hash(self) -> str:
        """First 12 hex digits of the canonical JSON's SHA-256; 10^4 runs collide with probability 2e-7."""
        return hashlib.sha256(canonical_json(self).encode()).hexdigest()[:12]

    @property
    def slug(self) -> str:
        """Readable folder name that ends in the hash.

        Raises:
            ValueError: a part of it is no name.
        """
        what = f"{self.benchmark.family}-{self.task}" if self.task else self.benchmark.family
        slug = f"{what}--{self.model.name}--{self.method.name}--seed{self.seed}--{self.hash}"
        # It becomes a path. Names are checked when they are read; a copy with changes is not.
        if not re.fullmatch(r"[A-Za-z0-9._-]+", slug):
            raise ValueError(f"{slug!r} cannot name a folder")
        return slug

    @property
    def task(self) -> str:
        """The task, if tasks are trained separately; empty if a run trains on all of them."""
        return "-".join(self.benchmark.columns) if self.benchmark.run_per_task else ""

    @property
    def title(self) -> str:
        """Readable name: model, method, task and seed."""
        return " ".join(filter(None, [self.model.name, self.method.name, self.task, f"seed {self.seed}"]))


def canonical_json(spec: Frozen) -> str:
    """A spec as JSON with sorted keys, no spaces and Python's shortest exact form of floats."""
    return json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def flatten(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted keys; lists are values."""
    if not isinstance(content, dict):
        return {prefix: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat
