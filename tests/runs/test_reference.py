"""Which runs become reference results, and which data and seeds a table of them shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from repro.analysis.damaged_files import damaged_speed
from repro.config import ConfigError
from repro.paths import REFERENCE
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.report.reference import ReferencePage
from repro.runs.json_files import write_json
from repro.runs.known_curvature import Curvature, curvature_file, known_curvature
from repro.runs.known_ranks import RandomRanks, random_ranks_file
from repro.runs.measurements import (
    Card,
    Measured,
    Measurement,
    Ratio,
    speed_file,
    usable_speeds,
)
from repro.runs.norms import Norm, known_norm
from repro.runs.reference import import_runs, reference_plans
from repro.runs.rerun import read_run
from repro.runs.result import Result
from repro.runs.store import DIAGNOSTICS, PREDICTIONS, RANKS, UNMERGED, Store
from repro.training.diagnostics import Diagnostics
from tests.runs.unmerged import unmerged_as

LAPTOP = load_profile("laptop")


@pytest.fixture(scope="module")
def result() -> Result:
    """A committed run of the first scorer, whose scores stand for those of any family."""
    return read_run(next(REFERENCE.glob("runs/commonsense--*--lora--seed0--c684ed8a0107/result.json")))[1]


def _put(store: Store, spec: RunSpec, result: Result, **environment: object) -> None:
    changed = result.environment.model_copy(update=environment)
    score = next(iter(result.scores.values()))
    benchmark = spec.benchmark
    items = score.items * (1 if benchmark.shares_items else len(benchmark.columns))
    own = {
        "hash": spec.hash,
        "slug": spec.slug,
        "spec": spec.model_dump(mode="json"),
        "environment": changed,
        "scores": dict.fromkeys(benchmark.columns, score),
        "evaluation": result.evaluation.model_copy(update={"items": items}),
    }
    store.write_result(spec, result.model_copy(update=own))


def _specs(experiment: str, **options: object) -> list[RunSpec]:
    planned = expand(load_experiment(experiment), LAPTOP, **options)  # type: ignore[arg-type]
    return [spec for spec in planned.runs.values() if spec.method.trains]


def test_runs_that_nobody_could_repeat_are_refused(result: Result, tmp_path: Path) -> None:
    source, target = Store(tmp_path / "a" / "runs"), Store(tmp_path / "b" / "runs")
    clean, dirty, unknown, *_ = _specs("table1")
    _put(source, clean, result)
    _put(source, dirty, result, dirty=True)
    _put(source, unknown, result, commit=None, dirty=None)
    source.write_predictions(clean, [{"task": "boolq", "id": 0}])
    lines = list(import_runs(LAPTOP, source, target))
    assert sorted(lines) == sorted(
        [
            f"taken over: {clean.slug}",
            f"refused: {dirty.slug} was not executed from a clean checkout",
            f"refused: {unknown.slug} was not executed from a clean checkout",
        ]
    )
    assert [target.is_done(spec) for spec in (clean, dirty, unknown)] == [True, False, False]
    assert not (target.directory(clean) / PREDICTIONS).exists()


def test_a_result_that_is_there_is_kept(result: Result, tmp_path: Path) -> None:
    source, target = Store(tmp_path / "a" / "runs"), Store(tmp_path / "b" / "runs")
    spec = _specs("table1")[0]
    _put(source, spec, result)
    assert [line.partition(":")[0] for line in import_runs(LAPTOP, source, target)] == ["taken over"]
    before = target.result(spec)
    _put(source, spec, result, hardware="another")
    assert [line.partition(":")[0] for line in import_runs(LAPTOP, source, target)] == ["kept"]
    assert target.result(spec) == before


def test_of_a_sweep_s_runs_the_norm_is_kept_and_curvatures_are_taken_over(
    result: Result, tmp_path: Path
) -> None:
    """Their diagnostics are larger than all else together, and of them only the norm is shown."""
    source, target = Store(tmp_path / "a" / "runs"), Store(tmp_path / "b" / "runs")
    spec = _specs("sweeps/alpha")[0]
    _put(source, spec, result)
    layer = {"update_norm": (0.0, 3.0), "relative_norm": (0.0, 0.5)}
    diagnostics = Diagnostics(steps=(0, 9), layers={"0.q_proj": layer}, merge_errors={})
    write_json(source.directory(spec) / DIAGNOSTICS, diagnostics)
    file = curvature_file(spec, tmp_path / "a")
    curvature = Curvature(
        start=file.stem, largest=2.5, parameters=1, examples=1, targets=1, products=1, seconds=1.0
    )
    write_json(file, curvature)
    list(import_runs(LAPTOP, source, target))
    assert not (target.directory(spec) / DIAGNOSTICS).exists()
    assert known_norm(spec, target) == Norm(update=3.0, weight=6.0)
    assert known_curvature(spec, tmp_path / "b") == curvature
    # Beside what merging costs, the share of dW that it loses is shown.
    own = source.result(spec)
    assert own is not None
    write_json(source.directory(spec) / UNMERGED, unmerged_as(own))
    list(import_runs(LAPTOP, source, target))
    assert (target.directory(spec) / DIAGNOSTICS).exists() and (target.directory(spec) / UNMERGED).exists()


def test_what_was_measured_of_runs_is_read_before_it_is_taken_over(result: Result, tmp_path: Path) -> None:
    source, target = Store(tmp_path / "a" / "runs"), Store(tmp_path / "b" / "runs")
    spec = _specs("fig3")[0]
    _put(source, spec, result)
    file = curvature_file(spec, tmp_path / "a")
    foreign = Curvature(start="s", largest=2.5, parameters=1, examples=1, targets=1, products=1, seconds=1.0)
    write_json(file, foreign)
    shown = load_experiment("fig3").ranks
    assert shown is not None
    random = random_ranks_file(shown.random_size, shown.random_rank, tmp_path / "a")
    write_json(random, RandomRanks(size=8, factors=2, ranks=()))
    for name in (DIAGNOSTICS, RANKS):
        (source.directory(spec) / name).write_text("{}")
    told = [line for line in import_runs(LAPTOP, source, target) if not line.startswith("taken over: ")]
    assert [line.partition(": ")[2].partition(": ")[0] for line in told] == [
        str(source.directory(spec) / DIAGNOSTICS),
        str(source.directory(spec) / RANKS),
        str(file),
        str(random),
    ]
    assert "of another start, s; " in told[2] and "of size 8 with 2 factors; " in told[3]
    assert [path.name for path in (tmp_path / "b").rglob("*") if path.is_file()] == ["result.json"]


def test_tests_without_merging_are_taken_over_if_they_are_of_the_run_and_shown_once(
    result: Result, tmp_path: Path
) -> None:
    source, target = Store(tmp_path / "a" / "runs"), Store(tmp_path / "b" / "runs")
    good, foreign, dirty, *_ = _specs("table1")
    for spec in (good, foreign, dirty):
        _put(source, spec, result)
        own = source.result(spec)
        assert own is not None
        uncommitted = own.environment.model_copy(update={"dirty": spec is dirty})
        unmerged = unmerged_as(own).model_copy(
            update={"hash": good.hash if spec is foreign else spec.hash, "environment": uncommitted}
        )
        write_json(source.directory(spec) / UNMERGED, unmerged)
    told = sorted(import_runs(LAPTOP, source, target))
    lines = [line for line in told if not line.startswith("taken over: ")]
    paths = [source.directory(spec) / UNMERGED for spec in (foreign, dirty)]
    assert len(lines) == 2 and lines[0].startswith(f"damaged: {paths[0]}: of another run, {good.hash}; ")
    assert lines[1] == f"refused: {paths[1]} was not executed from a clean checkout"
    kept = [(target.directory(spec) / UNMERGED).exists() for spec in (good, foreign, dirty)]
    assert kept == [True, False, False]
    page = ReferencePage([LAPTOP], target)
    rows = [line for line in page.parts()["merging"]() if line.startswith("| ")]
    label = next(row.label for row in page.plans["table1"].rows if good in row.specs)
    assert len(rows) == 2 and rows[1].startswith(f"| {label} | 1 | ")


CARD = Card(name="NVIDIA H200", memory_gib=140.0)


def test_benchmarks_are_taken_over_and_renewed_if_they_are_of_a_clean_checkout(
    result: Result, tmp_path: Path
) -> None:
    source, target = tmp_path / "a", tmp_path / "b"

    def told(value: float, dirty: bool) -> list[str]:
        figure = Measurement(name="a / b", at="here", ratio=Ratio(rounds=(value,)))
        where = result.environment.model_copy(update={"dirty": dirty})
        for device, card in (("cpu", None), ("gpu", CARD)):
            measured = Measured(figures=(figure,), points=(), environment=where, card=card)
            assert measured.device == device
            write_json(source / "bench" / f"{device}.json", measured)
        return list(import_runs(LAPTOP, Store(source / "runs"), Store(target / "runs")))

    lines = told(2.0, dirty=False)
    assert re.fullmatch(r"taken over: \d+-threads-of-[a-z0-9-]+\.json", lines[0])
    assert lines[1:] == ["taken over: one-nvidia-h200.json"]
    kept = usable_speeds(target)
    assert [one.card for one in kept] == [CARD, None]
    assert told(3.0, dirty=True) == [
        f"refused: {source / 'bench' / device}.json was not measured from a clean checkout"
        for device in ("cpu", "gpu")
    ]
    assert usable_speeds(target) == kept
    told(4.0, dirty=False)
    assert [one.figures[0].ratio.rounds for one in usable_speeds(target)] == [(4.0,), (4.0,)]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 2}, "not a valid measured of version 1 (version: Input should be 1"),
        ({"figures": "none"}, "not a valid measured of version 1 (figures: "),
    ],
)
def test_a_benchmark_that_cannot_be_used_is_named_in_one_line(
    change: dict[str, object], why: str, result: Result, tmp_path: Path
) -> None:
    measured = Measured(figures=(), points=(), environment=result.environment, card=CARD)
    path = speed_file(tmp_path, measured)
    path.parent.mkdir()
    path.write_text(json.dumps(measured.model_dump(mode="json") | change))
    (line,) = damaged_speed(tmp_path)
    assert line.startswith(f"damaged: {path}: {why}")
    assert line.endswith("`repro bench` writes it again") and "\n" not in line
    assert usable_speeds(tmp_path) == []


def test_random_weights_are_no_reference(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"profile smoke gives no reference results: SMOKE RUN"):
        list(import_runs(load_profile("smoke"), Store(tmp_path), Store(tmp_path)))


@pytest.mark.parametrize("local_data", [False, True])
@pytest.mark.parametrize("at_hand", [False, True])
def test_a_table_shows_the_data_of_its_runs_whatever_is_at_hand(
    local_data: bool, at_hand: bool, result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path) if at_hand else "")
    store, spec = Store(tmp_path / "runs"), _specs("table4", local_data=local_data)[0]
    _put(store, spec, result)
    assert spec.hash in reference_plans(LAPTOP, store)["table4"].runs


def test_a_table_has_the_seeds_of_its_own_runs(result: Result, tmp_path: Path) -> None:
    """Three seeds of Table 1 are no three seeds of Table 6, though they share the run of Dual LoRA."""
    store = Store(tmp_path / "runs")
    for spec in [*_specs("table1", seeds=(0, 1, 2)), *_specs("table6", seeds=(0,))]:
        _put(store, spec, result)
    plans = reference_plans(LAPTOP, store)
    seeds = {name: {spec.seed for spec in plans[name].runs.values()} for name in ("table1", "table6")}
    assert seeds == {"table1": {0, 1, 2}, "table6": {0}}
