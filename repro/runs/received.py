"""The one reader of result files: what it returns is the result of a run, and contradicts itself nowhere.

A result is only a file. It may be cut short, edited, of another version, or received from somebody else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from repro.benchmarks.base import TaskScore
from repro.benchmarks.gold_probability import FLOOR
from repro.config import ConfigError, parse
from repro.plans.spec import DROPOUT_VERSION, SPEC_VERSION, RunSpec
from repro.reading import excerpt
from repro.runs.json_files import DamagedFile, read_json
from repro.runs.result import Result

# Largest difference between a value and the mean of its outcomes: a mean of digits is exact, pseudo-values
# are stored with four decimals.
_ROUNDING = 1e-4


def read_result(path: Path, remedy: str) -> tuple[RunSpec, Result] | None:
    """The run of a result file and its result; None if there is no such file.

    Raises:
        DamagedFile: it is no result, not of its spec, of another version, or contradicts itself. The message
            ends with `remedy`.
    """
    result = read_json(path, Result, remedy)
    if result is None:
        return None
    try:
        spec = _spec(result)
        fault = next(_faults(spec, result), None)
    except ConfigError as error:
        fault = str(error)
    if fault is not None:
        raise DamagedFile(f"{path}: {excerpt(fault)}; {remedy}")
    return spec, result


def _spec(result: Result) -> RunSpec:
    """The run that a result says it is of.

    Raises:
        ConfigError: its spec has another version, is none, or has another hash.
    """
    commit, version = result.environment.commit or "unknown", result.spec.get("version")
    if version not in (SPEC_VERSION, DROPOUT_VERSION):
        raise ConfigError(
            f"its spec has version {version!r}, this code knows {SPEC_VERSION} and {DROPOUT_VERSION}; it was "
            f"made by the code of commit {commit}"
        )
    spec = parse(result.spec, RunSpec, "spec")
    if version != spec.current_version:
        raise ConfigError(
            f"its spec has version {version}, such runs have version {spec.current_version} now; it was made "
            f"by the code of commit {commit}"
        )
    if spec.hash != result.hash:
        raise ConfigError(
            f"it says that its hash is {result.hash}, its spec has {spec.hash}; the file was edited, or a "
            f"default changed since commit {commit}"
        )
    return spec


def _faults(spec: RunSpec, result: Result) -> Iterator[str]:
    """What contradicts itself in a result."""
    # Parsing takes `false` for 0; what reads the mapping itself would not.
    if json.dumps(result.spec, sort_keys=True) != json.dumps(spec.model_dump(mode="json"), sort_keys=True):
        yield "its spec has a value of another type than its own"
    if result.slug != spec.slug:
        yield f"it says that it is {result.slug!r}, its spec is {spec.slug}"
    if result.training.steps != len(result.training.losses):
        yield f"{result.training.steps} steps of training, but losses of {len(result.training.losses)}"
    other = "best" if spec.training.selection == "last" else "last"
    if set(result.other_scores) - {other}:
        yield f"other_scores of {', '.join(result.other_scores)}; its spec allows those of {other} alone"
    for probe in result.probes:
        if probe.warning is not None and probe.warning not in result.warnings:
            yield f"probe {probe.name!r} failed, and its warnings do not say so"
    yield from wrong_scores("scores", spec, result.scores, result.evaluation.items)
    for rule, scores in result.other_scores.items():
        yield from wrong_scores(f"other_scores.{rule}", spec, scores, result.evaluation.items)


def wrong_scores(name: str, spec: RunSpec, scores: Mapping[str, TaskScore], items: int) -> Iterator[str]:
    """What contradicts itself in scores by column of so many test items; `name` is where they are."""
    benchmark = spec.benchmark
    if set(scores) != set(benchmark.columns):
        yield f"{name}: it has {', '.join(scores) or 'none'}, its spec {', '.join(benchmark.columns)}"
        return
    for column, score in scores.items():
        for fault in _wrong_score(score):
            yield f"{name}.{column}: {fault}"
        if score.log_probabilities and column not in type(benchmark).gold_columns():
            yield f"{name}.{column}: log_probabilities, which a {benchmark.family} run has of other columns"
    counts = [score.items for score in scores.values()]
    if (max(counts) if benchmark.shares_items else sum(counts)) != items:
        yield f"{name}: {', '.join(map(str, counts))} items by column, but {items} in the evaluation"


def _wrong_score(score: TaskScore) -> Iterator[str]:
    outcomes = score.outcomes
    if score.items < 1:
        yield f"a score of {score.items} items"
    if not 0 <= score.unparsed <= 1:
        yield f"a share of {score.unparsed} unparsed items"
    if score.value is None:
        if outcomes or score.log_probabilities or not score.missing:
            yield "no value, and yet outcomes, log_probabilities or no reason"
        return
    if len(score.log_probabilities) not in (0, score.items):
        yield f"{score.items} items, but log_probabilities of {len(score.log_probabilities)}"
    if not all(FLOOR <= value <= 0 for value in score.log_probabilities):
        yield f"a log-probability outside of {FLOOR:g} to 0"
    digits = isinstance(outcomes, str)
    if digits != score.metric.startswith("accuracy") or (digits and set(outcomes) - {"0", "1"}):
        yield f"outcomes of another kind than those of {score.metric}"
    if len(outcomes) != score.items:
        yield f"{score.items} items, but outcomes of {len(outcomes)}"
    mean = 100 * outcomes.count("1") if isinstance(outcomes, str) else sum(outcomes)
    if abs(mean / max(1, len(outcomes)) - score.value) > _ROUNDING:
        yield f"a value of {score.value}, but outcomes with the mean {mean / max(1, len(outcomes))}"
