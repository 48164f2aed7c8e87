"""A profile needs a section for a benchmark family only when an experiment of that family is planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.config import ConfigError
from repro.paths import EXPERIMENTS
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import ExperimentProfile, load_profile


def test_a_family_without_a_section_is_refused_when_its_experiment_is_planned() -> None:
    whole = load_profile("smoke")
    profile = whole.model_copy(update={"families": {"commonsense": whole.families["commonsense"]}})
    assert expand(load_experiment("table1"), profile).rows
    with pytest.raises(
        ConfigError,
        match=r"^profile smoke has no section for the benchmark family 'glue' \(it has: commonsense\); "
        "add families.glue to its file$",
    ):
        expand(load_experiment("table2"), profile)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: smoke", "name: ../../x", "name: not a name"),
        ("name: smoke", "name: laptop", "name: must equal the name of the file, 'smoke'"),
        ("seeds: [0]", "seeds: [5, 5]", "seeds: 5 is given more than once"),
        ("seeds: [0]", "seeds: []", "seeds: .*at least 1"),
        ("seeds: [0]", "seeds: [4294967296]", "seeds.0: .*less than or equal to 4294967295"),
        ("seeds: [0]", "seeds: [yes]", "seeds.0: .*got 'yes'"),
        ("  glue:", "  glu:", "families: .*did you mean 'glue'"),
        ("model: tiny-bert", "model: tiny-brt", "families.glue.model: .*did you mean 'tiny-bert'"),
        ("corda:", "codra:", "families.glue.methods: .*did you mean 'corda'"),
        ("samples: 8", "smaples: 8", "families.glue.methods.corda.smaples: .*did you mean 'samples'"),
        ("train_size: 16", "train_size: yes", "families.glue.benchmark.train_size: .*got 'yes'"),
        (
            "    methods:\n      corda",
            "    tasks: {sst-2: {}}\n    methods:\n      corda",
            "families.glue.tasks: .*did you mean 'sst2'",
        ),
        ("execution:\n", "models: {tiny-brt: {}}\nexecution:\n", "models: .*did you mean 'tiny-bert'"),
        ("execution:\n", "experiments: {tabel1: {}}\nexecution:\n", "experiments: .*did you mean 'table1'"),
        (
            "execution:\n",
            "experiments: {table1: {seeds: {lora: [1, 1]}}}\nexecution:\n",
            "experiments.table1.seeds.lora: 1 is given more than once",
        ),
        (
            "model: tiny-bert",
            "model: tiny-bert\n    learning_rates: {lroa: 1.0e-3}",
            "families.glue.learning_rates: .*did you mean 'lora'",
        ),
        (
            "model: tiny-bert",
            "model: tiny-bert\n    learning_rates: {lora: {stbs: 1.0e-3}}",
            "families.glue.learning_rates.lora: .*did you mean 'stsb'",
        ),
        (
            "model: tiny-llama",
            "model: tiny-llama\n    learning_rates: {lora: {piqa: 1.0e-3}}",
            "families.commonsense.learning_rates.lora: commonsense trains on all of its tasks at once",
        ),
        (
            "model: tiny-bert",
            "model: tiny-bert\n    learning_rates: {lora: {stsb: -1.0}}",
            "families.glue.learning_rates.lora",
        ),
        ("micro_batch_size: 4", "micro_batch_size: '4'", "execution.micro_batch_size: .*got '4'"),
        ("purpose: a", 'purpose: "a\\nb" # a', "purpose: holds the character"),
    ],
)
def test_a_slip_in_a_profile_is_refused_with_file_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = (EXPERIMENTS / "profiles" / "smoke.yaml").read_text()
    assert old in text
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "smoke.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=f"smoke.yaml: {message}"):
        load_profile("smoke", tmp_path)


def test_a_profile_says_which_rows_it_runs_at_which_seeds() -> None:
    part = ExperimentProfile(rows=("lora", "d*"), seeds={"lora": (3, 4), "*": (5,)})
    profile = load_profile("laptop").model_copy(update={"experiments": {"table1": part}})
    planned = expand(load_experiment("table1"), profile)
    seeds = {row.id: tuple(spec.seed for spec in row.specs) for row in planned.rows}
    assert seeds == {"lora": (3, 4), "dora": (5,), "dual_lora": (5,)}
    given = expand(load_experiment("table1"), profile, [7])
    assert {spec.seed for row in given.rows for spec in row.specs} == {7}
    with pytest.raises(
        ConfigError, match=r"unknown row 'hira'; .*; profile laptop leaves out the experiment's other rows$"
    ):
        planned.only(["hira"])
    part = ExperimentProfile(seeds={"lroa": (3,)})
    profile = load_profile("laptop").model_copy(update={"experiments": {"table1": part}})
    with pytest.raises(ConfigError, match="did you mean 'lora'"):
        expand(load_experiment("table1"), profile)


def test_a_profile_s_learning_rates_replace_those_of_rows_that_do_not_vary_them() -> None:
    whole = load_profile("laptop")
    family = whole.families["commonsense"].model_copy(update={"learning_rates": {"dual_lora": 0.5}})
    profile = whole.model_copy(update={"families": {**whole.families, "commonsense": family}})

    def rates(experiment: str) -> dict[str, float]:
        rows = expand(load_experiment(experiment), profile).rows
        return {row.id: row.specs[0].training.learning_rate for row in rows}

    assert set(rates("table5").values()) == {0.5}
    own = {
        row.id: row.specs[0].training.learning_rate for row in expand(load_experiment("table1"), whole).rows
    }
    assert rates("table1") == own | {"dual_lora": 0.5}
    assert 0.5 not in rates("sweeps/learning_rate").values()


def test_a_profile_s_learning_rates_can_be_those_of_single_tasks() -> None:
    whole = load_profile("laptop")

    def rates(given: object) -> dict[str, float]:
        family = whole.families["glue"].model_copy(update={"learning_rates": {"lora": given}})
        profile = whole.model_copy(update={"families": {**whole.families, "glue": family}})
        (row,) = expand(load_experiment("table2"), profile, data="local").only(["lora"]).rows
        return {next(iter(spec.benchmark.columns)): spec.training.learning_rate for spec in row.specs}

    assert rates({"*": 0.5, "stsb": 0.25}) == {"sst2": 0.5, "qnli": 0.5, "stsb": 0.25}
    assert rates(0.5) == {"sst2": 0.5, "qnli": 0.5, "stsb": 0.5}
    alone = rates({"stsb": 0.25})
    assert alone["stsb"] == 0.25 and alone["sst2"] not in (0.25, 0.5)
