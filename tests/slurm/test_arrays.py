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
    """Table 2 as in the paper: MRPC, RTE and STS-B start from MNLI in most rows."""
    return list(expand(load_experiment("table2"), load_profile("paper"), [0]).runs.values())


@pytest.mark.parametrize("longest", [7, 1001])
def test_every_run_is_one_task_and_follows_what_it_starts_from(specs: list[RunSpec], longest: int) -> None:
    arrays = make_arrays(specs, {}, longest)
    tasks = [spec.hash for array in arrays for spec in array.runs.values()]
    assert sorted(tasks) == sorted(spec.hash for spec in specs)
    places = {spec.hash: (array, index) for array in arrays for index, spec in array.runs.items()}
    children = 0
    for position, array in enumerate(arrays):
        assert len(array.runs) <= longest and max(array.runs) < longest
        for index, spec in array.runs.items():
            if spec.init_from is None:
                assert array.after is None
            else:
                children += 1
                assert places[spec.init_from.run.hash] == (array.after, index)
                assert arrays.index(array.after) < position
    assert children > 30
    if longest > len(specs):  # no more arrays than there are runs that start from the same one
        alike = Counter(spec.init_from.run.hash for spec in specs if spec.init_from is not None)
        assert len(arrays) == 1 + max(alike.values())


def test_a_run_waits_for_a_task_that_is_queued_already(specs: list[RunSpec]) -> None:
    child = next(spec for spec in specs if spec.init_from is not None)
    (array,) = make_arrays([child], {child.init_from.run.hash: Place("12", 5)}, 1001)
    assert (array.after, array.runs) == ("12", {5: child})
    # A run waits for nothing if the run it starts from is done.
    (array,) = make_arrays([child], {}, 1001)
    assert (array.after, array.runs) == (None, {0: child})


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
