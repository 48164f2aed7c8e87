"""Runs that start from another run: by its adapter, by its merged weights, and only when it is done."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from repro.config import ConfigError
from repro.plans.execution import Execution
from repro.plans.experiment import Experiment, load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec
from repro.runs.bases import BaseModels
from repro.runs.runner import execute
from repro.runs.starting import continue_adapter, starting_model, trained_model
from repro.runs.store import RunWaits, Store
from repro.training.finetuning import trained_state

EXECUTION = Execution(micro_batch_size=8, evaluation_tokens=4096, wandb=False)


def planned(reading: str, **settings: object) -> Experiment:
    """Table 2 with one row, in which RTE starts from a run on SST-2: the package has no MNLI."""
    experiment = load_experiment("table2")
    row = next(row for row in experiment.stand_in.rows if row.id == "dual_lora")
    rule = {"task": "sst2", "tasks": ["rte"], "reading": reading, "lora": {"rank": 4, "dropout": 0.0}}
    changed = {"init_from": rule, "method": row.method | settings}
    content = experiment.model_dump() | {"stand_in": {"rows": [row.model_dump() | changed]}}
    return Experiment.model_validate(content)


def specs(reading: str, **settings: object) -> tuple[RunSpec, RunSpec, list[RunSpec]]:
    """The run of RTE, the one that it starts from, and all runs in their order."""
    found = expand(planned(reading, **settings), load_profile("smoke"))
    child = next(spec for spec in found.runs.values() if spec.task == "rte")
    assert child.init_from is not None
    return child, child.init_from.run, list(found.runs.values())


def run(spec: RunSpec, folder: Path) -> None:
    execute(spec, store=Store(folder), execution=EXECUTION, bases=BaseModels(), group="test")


def test_a_run_is_planned_behind_the_one_that_it_starts_from() -> None:
    child, parent, runs = specs("own")
    assert [spec.hash for spec in runs].index(parent.hash) < [spec.hash for spec in runs].index(child.hash)
    assert (parent.task, parent.method, parent.seed) == ("sst2", child.method, child.seed)
    assert len(runs) == 3  # the parent is the row's own run on SST-2
    _, merged, all_runs = specs("merged_lora")
    assert (merged.method.name, merged.method.rank, len(all_runs)) == ("lora", 4, 4)


def test_what_a_run_starts_from_is_part_of_its_hash() -> None:
    own, merged = specs("own")[0], specs("merged_lora")[0]
    without = own.model_copy(update={"init_from": None})
    assert len({spec.hash for spec in (own, merged, RunSpec.model_validate(without.model_dump()))}) == 3
    assert RunSpec.model_validate(own.model_dump(mode="json")).hash == own.hash


def test_a_profile_without_the_task_starts_from_the_base_model() -> None:
    found = expand(load_experiment("table2"), load_profile("smoke"))
    assert all(spec.init_from is None for spec in found.runs.values())


@pytest.mark.parametrize("settings", [{}, {"freeze_direction_after": 0.0}], ids=str)
def test_it_waits_and_then_goes_on_from_the_trained_adapter(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    """Also from the factors that were drawn and not trained."""
    child, parent, _ = specs("own", **settings)
    with pytest.raises(RunWaits, match=rf"starts from {parent.slug}, which is not done"):
        run(child, tmp_path)
    run(parent, tmp_path)
    store, bases = Store(tmp_path), BaseModels()
    model, _ = starting_model(child, store, bases)
    torch.manual_seed(9)
    adapted = child.method.attach(model, child.adapted_modules, "seq_cls")
    continue_adapter(child, adapted, store, bases)
    base, _ = starting_model(parent, store, bases)
    trained = parent.method.load(base, store.directory(parent) / "adapter", parent.adapted_modules, "seq_cls")
    expected, found = trained_state(trained), trained_state(adapted)
    expected |= {name: factor for name, factor in trained.named_parameters() if "dual_lora" in name}
    found |= {name: factor for name, factor in adapted.named_parameters() if "dual_lora" in name}
    assert found.keys() == expected.keys() and len(found) > 8
    assert all(torch.equal(found[name], expected[name]) for name in found)
    run(child, tmp_path)
    assert store.is_done(child)


def test_an_adapter_is_evaluated_under_other_masks_without_training(tmp_path: Path) -> None:
    rows = {
        row.id: row.specs[0]
        for row in expand(load_experiment("questions/setting3"), load_profile("smoke")).rows
    }
    parent, *children = (rows[f"setting3-r16{end}"] for end in ("", "-other-1", "-other-2"))
    assert parent.hash in expand(load_experiment("table5"), load_profile("smoke")).runs
    for child in children:
        assert child.needed == (parent,) and not child.trains and child.seed == parent.seed
        again = RunSpec.model_validate(child.model_dump(mode="json"))
        assert again.hash == child.hash and again.parent == parent
    assert len({spec.hash for spec in (parent, *children)}) == 3
    with pytest.raises(RunWaits, match=rf"starts from {parent.slug}, which is not done"):
        run(children[0], tmp_path)
    store, bases = Store(tmp_path), BaseModels()
    for spec in (parent, children[0]):
        run(spec, tmp_path)
        result = store.result(spec)
        assert result is not None and result.training.steps == (4 if spec is parent else 0)
        assert bool(result.adapter_bytes) == (spec is parent)
    own, other = (store.predictions(spec) for spec in (parent, children[0]))
    assert own != other and [item["id"] for item in own] == [item["id"] for item in other]

    trained = trained_model(parent, store, bases)
    model, _ = starting_model(children[0], store, bases)
    altered = children[0].method.attach(model, parent.adapted_modules, "causal_lm")
    continue_adapter(children[0], altered, store, bases)
    before, after = trained_state(trained), trained_state(altered)
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) != ("dual_lora_seed" in name), name


def test_it_starts_from_merged_weights(tmp_path: Path) -> None:
    child, parent, _ = specs("merged_lora")
    run(parent, tmp_path)
    store, bases = Store(tmp_path), BaseModels()
    started, _ = starting_model(child, store, bases)
    base, _ = starting_model(parent, store, bases)
    trained = parent.method.load(
        base, store.directory(parent) / "adapter", parent.adapted_modules, "seq_cls"
    ).eval()
    tokens = torch.arange(8, 40).reshape(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(started(tokens).logits, trained(tokens).logits, rtol=0, atol=1e-5)
        untouched, _ = bases.checkout(child.model, "seq_cls", "fp32", 2)
        assert not torch.allclose(
            started(tokens, output_hidden_states=True).hidden_states[-1],
            untouched(tokens, output_hidden_states=True).hidden_states[-1],
        )
    run(child, tmp_path)  # its probe rebuilds the same start for the reloaded adapter


def test_an_adapter_that_was_not_kept_is_one_line(tmp_path: Path) -> None:
    child, parent, _ = specs("own")
    run(parent, tmp_path)
    shutil.rmtree(Store(tmp_path).directory(parent) / "adapter")
    with pytest.raises(ConfigError, match="adapter is missing, and its weights are needed; raise"):
        run(child, tmp_path)


@pytest.mark.parametrize(("row", "kept"), [("fft", False), ("lora", True)])
def test_adapters_are_kept_and_whole_models_up_to_a_size(tmp_path: Path, row: str, kept: bool) -> None:
    rows = {row.id: row for row in expand(load_experiment("table2"), load_profile("smoke")).rows}
    spec = rows[row].specs[0]
    small = EXECUTION.model_copy(update={"keep_weights_mb": 0})
    execute(spec, store=Store(tmp_path), execution=small, bases=BaseModels(), group="test")
    assert (Store(tmp_path).directory(spec) / "adapter").exists() == kept


def test_best_and_last_epoch_are_both_scored(tmp_path: Path) -> None:
    _, best, _ = specs("own")
    last = RunSpec.model_validate(
        best.model_dump() | {"training": best.training.model_dump() | {"selection": "last"}}
    )
    store = Store(tmp_path)
    for spec in (best, last):
        run(spec, tmp_path)
    by_best, by_last = store.result(best), store.result(last)
    assert by_best is not None and by_last is not None
    assert len(by_best.training.validation_scores) == 2  # epochs
    assert max(score for _, score in by_best.training.validation_scores) == by_best.scores["sst2"].value
    assert by_best.other_scores["last"] == by_last.scores
    assert by_last.other_scores["best"] == by_best.scores
