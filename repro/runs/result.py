"""What a finished run leaves behind, and what a failed one does: typed, so that a reader need not guess."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from repro.benchmarks.base import TaskScore
from repro.config import Frozen
from repro.training.probes import Probe

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[FiniteFloat, Field(ge=0)]

# Raised, here and in `Result`, when a field changes its meaning: a reader refuses every other version.
RESULT_VERSION = 1

# Above this share of unreadable answers, an accuracy says as much about the extraction as about the model.
_UNPARSED_WARNING = 0.01


class Environment(Frozen):
    """Where and with what code a run was executed.

    Attributes:
        commit: git commit of the project, None outside a checkout.
        dirty: whether the checkout had uncommitted changes.
        hardware: processor and accelerator in words, `threads` as torch uses them.
        devices, strategy: how many of them worked on the run, and how they shared it; see
            `repro.plans.execution`.
        packages: version of each package that can change a number.
    """

    commit: str | None
    dirty: bool | None
    python: str
    platform: str
    hardware: str
    threads: Count
    packages: dict[str, str]
    devices: int = Field(default=1, ge=1)
    strategy: Literal["ddp", "fsdp"] | None = None


class Training(Frozen):
    """`seconds` of the optimisation and its validations; `tokens` without padding; `losses` a mean per step.

    Attributes:
        validation_losses, validation_scores: by optimiser step; a loss may overflow.
        optimizer_state_bytes: of the tensors that the optimiser kept at the end.
        adamw_state_bytes: of those that AdamW would have kept for the same parameters.
        kernel: what computed the adapter, where the method has a choice.
        micro_batch_size: examples in one pass of one device, after whatever halving the memory asked for.
        truncated: share of the training texts that were cut, between 0 and 1: of `all`, and of each part with
            any, such as a task. None where they were not counted, as by older versions.
    """

    steps: Count
    tokens: Count
    seconds: Amount
    losses: tuple[FiniteFloat, ...]
    validation_losses: tuple[tuple[Count, float], ...]
    validation_scores: tuple[tuple[Count, FiniteFloat], ...] = ()
    optimizer_state_bytes: Count | None = None
    adamw_state_bytes: Count | None = None
    kernel: Literal["triton", "c", "torch"] | None = None
    micro_batch_size: int | None = Field(default=None, ge=1)
    truncated: dict[str, FiniteFloat] | None = None


class Evaluation(Frozen):
    """`predictions` is the name of the file in the run's folder that this version of the scorer read.

    Attributes:
        seconds: of the test pass, the probes before it among them.
        merged: whether the adapter was in the base's weights; never so if these were sharded.
        probing_seconds: of the probes alone; None where an older version did not take the time.
        batch_tokens: largest number of tokens in one forward pass; None where an older version did not say.
    """

    seconds: Amount
    probing_seconds: Amount | None = None
    items: int = Field(ge=1)
    merged: bool
    scorer_version: Count
    predictions: str
    batch_tokens: int | None = Field(default=None, ge=1)


class Result(Frozen):
    """A finished run. Its presence means done. `repro.runs.received` checks one that is read.

    Attributes:
        scores: by column, of the weights that the spec's rule selects.
        other_scores: by the rule that was not taken, `last` or `best`, where validation gives a score.
    """

    version: Literal[1] = RESULT_VERSION  # type: ignore[assignment]
    hash: str
    slug: str
    spec: dict[str, Any]
    scores: dict[str, TaskScore]
    other_scores: dict[Literal["last", "best"], dict[str, TaskScore]] = {}
    training: Training
    evaluation: Evaluation
    probes: tuple[Probe, ...]
    trainable_parameters: Count
    adapted_layers: dict[str, Count]
    adapter_bytes: Count
    peak_memory_bytes: Count | None
    total_seconds: Amount
    finished: str
    model_revision: str
    data_fingerprints: dict[str, str]
    environment: Environment
    warnings: tuple[str, ...]


class Failure(Frozen):
    """A run that broke: kept beside the others until it is retried.

    Attributes:
        again: whether it is retried without a word, because it broke by a fault of the machine, a full disk
            for instance, and not by one of its own.
    """

    hash: str
    slug: str
    error: str
    traceback: str
    attempts: Count
    when: str
    environment: Environment
    again: bool = False


def score_warnings(scores: Mapping[str, TaskScore]) -> Iterator[str]:
    """What a reader of scores should know: what is missing, unreadable or collapsed."""
    for task, score in scores.items():
        if score.missing:
            yield score.missing
        if score.unparsed > _UNPARSED_WARNING:
            yield f"{task}: {100 * score.unparsed:.1f} % of the answers could not be read and count as wrong"
        if score.constant:
            yield f"{task}: all {score.items} items got the same answer"
