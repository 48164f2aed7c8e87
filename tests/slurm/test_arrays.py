"""Runs as array tasks: no run twice, none before the run it starts from, no array too long."""

from __future__ import annotations

from collections import Counter

import pytest

from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.states import RunState, State
from repro.slurm.arrays import Array, Place, indices, make_arrays
from repro.slurm.submit import to_submit


@pytest.fixture(scope="module")
def specs() -> list[RunSpec]:
    """Table 2 as in the paper: three tasks start from MNLI in most rows; and runs that evaluate others."""
    plans = (expand(load_experiment(n), load_profile("paper"), [0]) for n in ("table2", "questions/setting3"))
    return [spec for plan in plans for spec in plan.runs.values()]


@pytest.mark.parametrize("longest", [7, 1001])
@pytest.mark.parametrize("runs_per_task", [1, 2, 5])
def test_every_run_is_in_one_task_and_follows_what_it_starts_from(
    specs: list[RunSpec], runs_per_task: int, longest: int
) -> None:
    arrays = make_arrays(specs, {}, longest, runs_per_task)
    tasks = [(array, index, runs) for array in arrays for index, runs in array.runs.items()]
    assert sorted(spec.hash for *_, runs in tasks for spec in runs) == sorted(spec.hash for spec in specs)
    places = {spec.hash: (array, index) for array, index, runs in tasks for spec in runs}
    alike = Counter(spec.parent.hash for spec in specs if spec.parent is not None)
    children = 0
    for array, index, runs in tasks:
        assert len(array.runs) <= longest and index < longest
        assert len(runs) <= runs_per_task and len({spec.model.name for spec in runs}) == 1
        for spec in runs:
            if spec.parent is None:
                assert array.after is None
            else:
                children += 1
                assert places[spec.parent.hash] == (array.after, index)
                assert arrays.index(array.after) < arrays.index(array)
            if spec.hash in alike:  # what starts from it waits for nothing else
                assert runs == [spec]
    assert children > 30
    # No more tasks and arrays than that takes.
    lone = sum(spec.parent is None and spec.hash not in alike for spec in specs)
    models = {spec.model.name for spec in specs}
    assert len(tasks) <= len(alike) + lone / runs_per_task + len(models) + sum(
        -(-count // runs_per_task) for count in alike.values()
    )
    if longest > len(specs):
        assert len(arrays) == 1 + -(-max(alike.values()) // runs_per_task)


def test_a_run_waits_for_a_task_that_is_queued_already(specs: list[RunSpec]) -> None:
    child = next(spec for spec in specs if spec.init_from is not None)
    (array,) = make_arrays([child], {child.init_from.run.hash: Place("12", 5)}, 1001)
    assert (array.after, array.runs) == ("12", {5: [child]})
    # A run waits for nothing if the run it starts from is done.
    (array,) = make_arrays([child], {}, 1001)
    assert (array.after, array.runs) == (None, {0: [child]})


def test_runs_that_nobody_will_make_possible_are_not_submitted(specs: list[RunSpec]) -> None:
    child = next(spec for spec in specs if spec.init_from is not None)
    parent = child.init_from.run

    def chosen(parent_state: State, queued: dict[str, Place], retry_failed: bool = False) -> list[RunSpec]:
        states = [RunState(parent, parent_state), RunState(child, State.MISSING)]
        return list(to_submit(states, queued, retry_failed=retry_failed))

    assert chosen(State.MISSING, {}) == [parent, child]
    assert chosen(State.DONE, {}) == [child]
    assert chosen(State.FAILED, {}) == []
    assert chosen(State.FAILED, {}, retry_failed=True) == [parent, child]
    assert chosen(State.MISSING, {parent.hash: Place("1", 0)}) == [child]
    assert chosen(State.MISSING, {parent.hash: Place("1", 0), child.hash: Place("2", 0)}) == []
    # A failed run that is being retried is not retried twice.
    assert chosen(State.FAILED, {parent.hash: Place("1", 0)}, retry_failed=True) == [child]


def test_arrays_are_told_apart_by_themselves() -> None:
    assert Array() != Array()


@pytest.mark.parametrize(
    ("numbers", "text"), [([0], "0"), ([0, 1, 2], "0-2"), ([4, 0, 1, 7, 8], "0-1,4,7-8")]
)
def test_indices_in_slurms_words(numbers: list[int], text: str) -> None:
    assert indices(numbers) == text
