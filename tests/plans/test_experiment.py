"""Every shipped experiment under every profile, and invalid experiment files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from repro.analysis.paper import paper_rows
from repro.config import ConfigError, parse
from repro.paths import EXPERIMENTS
from repro.plans.experiment import Experiment, list_experiments, load_experiment
from repro.plans.plan import expand
from repro.plans.profile import list_profiles, load_profile


@pytest.mark.parametrize("profile", list_profiles())
@pytest.mark.parametrize("name", list_experiments())
def test_every_shipped_experiment_plans_under_every_profile(name: str, profile: str) -> None:
    """Also on local data, for which a profile may have other settings."""
    planned = expand(load_experiment(name), load_profile(profile), local_data=False)
    assert len(planned.rows) == len(expand(load_experiment(name), load_profile(profile), data="local").rows)
    assert len(planned.cells) == sum(len(row.columns) for row in planned.rows)
    assert all(column in planned.columns for row in planned.rows for column in row.columns)
    assert {spec.hash for row in planned.rows for spec in row.specs} == set(planned.runs)
    assert all(row.trainable_parameters > 0 for row in planned.rows if row.specs[0].method.trains)


@pytest.mark.parametrize("name", list_experiments())
def test_the_stand_in_rows_hold_every_method_of_the_blocks(name: str) -> None:
    experiment = load_experiment(name)
    in_blocks = {row.method["name"] for block in experiment.blocks for row in block.rows}
    assert in_blocks <= {row.method["name"] for row in experiment.stand_in.rows}


def test_the_paper_profile_of_table1_has_the_published_settings() -> None:
    planned = expand(load_experiment("table1"), load_profile("paper"))
    rows = {(row.block, row.id): row for row in planned.rows}
    assert {block for block, _ in rows} == {"llama-7b", "llama-13b", "llama2-7b", "llama3-8b", "llama3-70b"}
    dual = rows["llama-7b", "dual_lora-r16"]
    # HiRA paper, appendix A: AdamW without weight decay, linear, 100 warm-up steps, batch 32, 3 epochs, 1e-3.
    training = dual.specs[0].training
    assert (training.batch_size, training.epochs, training.warmup_steps) == (32, 3, 100)
    assert (training.learning_rate, training.weight_decay, training.schedule) == (1e-3, 0.0, "linear")
    assert dual.specs[0].benchmark.protocol.beams == 4
    assert dual.trainable_parameters == rows["llama-7b", "lora-r32"].trainable_parameters == 56_098_816
    assert f"{dual.trainable_percent:.2f}" == "0.83"
    assert rows["llama-7b", "lora-r32"].specs[0].training.learning_rate == 3e-4
    assert rows["llama3-8b", "randlora-r30"].specs[0].training.epochs == 3
    assert rows["llama3-70b", "lora-r16"].specs[0].training.epochs == 1
    assert rows["llama3-70b", "dual_lora-r8"].trainable_parameters == 138_936_320


def test_full_fine_tuning_trains_all_of_the_model() -> None:
    planned = expand(load_experiment("table1"), load_profile("laptop"))
    shares = {row.id: row.trainable_percent for row in planned.rows}
    assert shares["fft"] == 100
    assert shares["base"] == 0
    adapters = {row: share for row, share in shares.items() if row not in ("fft", "base")}
    # The laptop's ranks are chosen so that no adapter has an advantage in size.
    assert max(adapters.values()) / min(adapters.values()) < 1.05


def test_untrained_rows_need_one_seed_only() -> None:
    planned = expand(load_experiment("table1"), load_profile("laptop"), seeds=(3, 4))
    seeds = {row.id: [spec.seed for spec in row.specs] for row in planned.rows}
    assert seeds["base"] == [3]
    assert seeds["lora"] == [3, 4]


@pytest.fixture
def content() -> dict:
    return yaml.safe_load((EXPERIMENTS / "table1.yaml").read_text())


def _plan(content: dict) -> None:
    expand(parse(content, Experiment, "table1.yaml"), load_profile("smoke"))


def test_rows_that_differ_outside_the_axes_are_refused(content: dict) -> None:
    content["stand_in"]["rows"][2]["training"] = {"loss_on": "all"}
    with pytest.raises(
        ConfigError, match=r"rows differ in training.loss_on .*lora: 'all'.*add the key to axes"
    ):
        _plan(content)


def test_a_footnote_allows_a_difference_and_is_shown(content: dict) -> None:
    content["stand_in"]["rows"][2]["training"] = {"loss_on": "all"}
    content["footnotes"]["training.loss_on"] = "LoRA also learns the prompt."
    planned = expand(Experiment.model_validate(content), load_profile("smoke"))
    assert "LoRA also learns the prompt." in planned.footnotes()


def test_a_footnote_without_a_difference_is_not_shown(content: dict) -> None:
    content["footnotes"]["training.loss_on"] = "LoRA also learns the prompt."
    planned = expand(Experiment.model_validate(content), load_profile("smoke"))
    assert "LoRA also learns the prompt." not in planned.footnotes()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "method",
            {"name": "lroa"},
            r"table1.yaml, stand_in, row lora: method.name: unknown method 'lroa'.*did you mean 'lora'",
        ),
        (
            "method",
            {"name": "lora", "rnak": 3},
            r"stand_in, row lora: method: lora: rnak: unknown key \(got 3.*did you mean 'rank'",
        ),
        ("method", {"name": "lora", "rank": 0}, r"rank: .*greater than 0.*got 0"),
        (
            "training",
            {"loss_on": "answers"},
            r"training.loss_on: .*got 'answers'; allowed: 'completion' or 'all'",
        ),
        ("benchmark", {"source": "web"}, r"source: .*got 'web'; allowed: 'local', 'package' or 'hub'"),
    ],
)
def test_a_wrong_setting_names_row_key_value_and_what_is_allowed(
    content: dict, key: str, value: dict, message: str
) -> None:
    content["stand_in"]["rows"][2] |= {key: value}
    with pytest.raises(ConfigError, match=message):
        _plan(content)


def test_a_wrong_key_in_a_file_names_the_file(tmp_path: Path, content: dict) -> None:
    content["blocks"][0]["modle"] = "llama-7b"
    (tmp_path / "table1.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"table1.yaml: blocks.0.modle: unknown key .*did you mean 'model'"):
        load_experiment("table1", tmp_path)


def test_an_old_key_is_read_with_a_line_that_names_the_new_one(
    tmp_path: Path, content: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "table1.yaml"
    file.write_text(yaml.safe_dump(content | {"name": "table1"}))
    current = load_experiment("table1", tmp_path)
    file.write_text(yaml.safe_dump(content | {"collapsed": content.pop("stand_in")}))
    assert load_experiment("table1", tmp_path) == current
    assert capsys.readouterr().err == f"{file}: key 'collapsed' is now 'stand_in'; rename it\n"


def test_two_rows_of_one_id_are_refused(content: dict) -> None:
    content["stand_in"]["rows"][0]["id"] = "lora"
    with pytest.raises(ValueError, match="stand_in: two rows have the id 'lora'"):
        _plan(content)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown experiment 'tabel1'; .*did you mean 'table1'"):
        load_experiment("tabel1")
    with pytest.raises(ConfigError, match=r"unknown profile 'labtop'; known: .*smoke.*did you mean 'laptop'"):
        load_profile("labtop")


def test_a_mapping_of_another_name_replaces_what_is_below(content: dict) -> None:
    """The paper's protocol has beams, the stand-in profiles' protocol has none and must not inherit them."""
    planned = expand(Experiment.model_validate(content), load_profile("smoke"))
    assert set(planned.rows[0].specs[0].benchmark.protocol.model_dump()) == {"name", "version"}


def test_targets_that_are_no_linear_maps_of_the_model_are_refused_before_anything_runs() -> None:
    experiment = load_experiment("table1")
    rows = (experiment.stand_in.rows[2].model_copy(update={"targets": ("output",)}),)
    broken = experiment.model_copy(update={"stand_in": experiment.stand_in.model_copy(update={"rows": rows})})
    with pytest.raises(
        ConfigError, match=r"row lora, profile smoke: targets: target 'output' is no linear module"
    ):
        expand(broken, load_profile("smoke"))


def _edited(content: dict, key: str, value: object) -> None:
    """Put a value at a dotted key, whose numbers are places in lists."""
    *path, last = (int(part) if part.isdecimal() else part for part in key.split("."))
    for part in path:
        content = content[part]
    content[last] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("defaults.training.epochs", True, "epochs: .*got True"),
        ("defaults.training.learning_rate", "on", "learning_rate: .*got 'on'"),
        ("defaults.training.learning_rate", float("inf"), "learning_rate: .*got inf"),
        ("defaults.training.learning_rte", 1, "did you mean 'learning_rate'"),
        ("defaults.benchmark.tasks", [], "tasks: .*at least 1"),
        ("defaults.benchmark.tasks", ["boolq", "boolq"], "'boolq' is given more than once"),
        ("defaults.benchmark.sorce", "hub", "did you mean 'source'"),
        ("defaults.benchmark.family", "glue", "family: cannot be set here"),
        ("defaults.methods", {"lroa": {}}, "did you mean 'lora'"),
        ("defaults.methods", {"lora": {"rnak": 1}}, "did you mean 'rank'"),
        ("defaults.methods", {"lora": {"name": "dora"}}, "name: cannot be set here"),
        ("defaults.tasks", {"boolq": {}}, "trains on all of its tasks at once"),
        ("stand_in.rows.2.method.rank", 33, "method.rank: 33 is no low rank .*up to 32"),
        ("stand_in.rows.2.method.rank", 10**8, "is no low rank"),
        ("stand_in.rows.2.method.rank", True, "rank: .*got True"),
        ("stand_in.rows.2.method.alpha", float("inf"), "alpha: .*got inf"),
        ("stand_in.rows.2.method.name", ["lora"], "method.name: missing, or no text"),
        ("stand_in.rows.2.targets", [], "targets: .*at least 1"),
        ("stand_in.rows.2.id", "a/b", "id: not a name"),
        ("stand_in.rows.2.label", "a\nb", "label: holds the character"),
        ("stand_in.rows.2.preset", "lora-papre", "did you mean 'lora-paper'"),
        (
            "stand_in.rows.2.init_from",
            {"task": "boolq", "tasks": ["piqa"]},
            "init_from: commonsense is trained",
        ),
        ("stand_in.rows.2.vary", [{"method": [1]}, {"method.rank": [2]}], "'method' holds another key"),
        ("stand_in.rows.2.vary", [{"id": ["a", "b"]}], "'id' cannot vary"),
        ("stand_in.rows.2.vary", [{"method.rank": list(range(9999))}, {"method.alpha": [1, 2, 3]}], "20,000"),
        # These are replaced under the profile, and refused all the same.
        ("blocks.0.model", "lama-7b", "did you mean 'llama-7b'"),
        ("blocks.0.rows.0.method", {"name": "lroa"}, "did you mean 'lora'"),
        ("blocks.0.rows.0.training", {"epochs": "3"}, "epochs: .*got '3'"),
        ("title", "a\nb", "title: holds the character"),
        ("sweep", {"x": "method.rnak", "label": "rank"}, "stand_in: no row varies sweep.x, 'method.rnak'"),
        (
            "sweep",
            {"x": "method.rank", "label": "rank", "column": "boolk"},
            "sweep.column: unknown column 'boolk'; .*did you mean 'boolq'",
        ),
        ("family", "comonsense", "did you mean 'commonsense'"),
        ("name", "../../x", "name: not a name"),
        ("name", "other", "name: must equal the name of the file, 'table1'"),
        ("defaults", "table1", "table1 -> table1 never ends"),
        ("defaults", "tabel1", "defaults: unknown experiment 'tabel1'; .*did you mean 'table1'"),
    ],
)
def test_a_slip_is_refused_when_planning(
    tmp_path: Path, content: dict, key: str, value: object, message: str
) -> None:
    _edited(content, key, value)
    (tmp_path / "table1.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=message):
        expand(load_experiment("table1", tmp_path), load_profile("smoke"))


def test_a_sweep_of_a_family_without_an_average_names_a_column() -> None:
    content = load_experiment("sweeps/learning_rate_e2e").model_dump()
    content["sweep"]["column"] = None
    with pytest.raises(ValueError, match=r"sweep\.column: missing, and e2e has no average; name one of bleu"):
        Experiment.model_validate(content)


def test_defaults_in_a_circle_are_refused(tmp_path: Path, content: dict) -> None:
    for name, other in [("a", "b"), ("b", "a")]:
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content | {"name": name, "defaults": other}))
    with pytest.raises(ConfigError, match="a -> b -> a never ends"):
        load_experiment("a", tmp_path)


def test_what_an_experiment_says_of_its_rows_wins_over_the_profile(content: dict) -> None:
    content["stand_in"]["benchmark"] = {"test_per_task": 3}
    planned = expand(Experiment.model_validate(content), load_profile("smoke"))
    assert planned.rows[0].specs[0].benchmark.test_per_task == 3  # the profile has 4


@pytest.mark.parametrize("seeds", [(0, 0), (-1,), (2**32,), (), (True,), ("0",)])
def test_seeds_that_no_run_could_have_are_refused(seeds: tuple) -> None:
    with pytest.raises(ConfigError, match=r"--seeds: seeds"):
        expand(load_experiment("table1"), load_profile("smoke"), seeds)


def test_a_preset_without_effect_is_refused() -> None:
    experiment = load_experiment("table2")
    with pytest.raises(ConfigError, match="--preset lora-scripts has no effect: profile laptop replaces"):
        expand(experiment, load_profile("laptop"), preset="lora-scripts")
    with pytest.raises(ConfigError, match="did you mean 'lora-scripts'"):
        expand(experiment, load_profile("laptop"), preset="lora-scirpts")
    with pytest.raises(ConfigError, match="unknown model of this preset"):
        expand(load_experiment("table1"), load_profile("paper"), preset="lora-scripts")
    assert expand(experiment, load_profile("paper"), preset="lora-scripts").runs != (
        expand(experiment, load_profile("paper")).runs
    )


@pytest.mark.parametrize(
    ("benchmark", "training", "message"),
    [
        ({"evaluated": "held_out", "test_per_task": None}, {}, "held_out needs test_per_task"),
        ({"train_per_task": 10**6}, {}, "boolq has 1,612 training records"),
        ({"validation_size": 32}, {}, "leaves no example to train on"),
        ({"validation_size": 0}, {"selection": "best_validation_loss"}, "needs a benchmark.validation_size"),
        ({}, {"selection": "best_validation_score"}, "commonsense has no validation score"),
        ({}, {"selection": "best_validation_loss", "validate_every": 99}, "above the number of steps, 4"),
    ],
)
def test_a_plan_refuses_what_a_run_would(
    content: dict, benchmark: dict, training: dict, message: str
) -> None:
    content["stand_in"] |= {"benchmark": benchmark, "training": training}
    with pytest.raises(ConfigError, match=message):
        _plan(content)


def test_a_plan_refuses_an_execution_that_does_not_fit() -> None:
    profile = load_profile("smoke")
    sharded = profile.execution.model_copy(update={"devices": 2, "strategy": "fsdp"})
    with pytest.raises(ConfigError, match="fft trains all of them"):
        expand(load_experiment("table1"), profile.model_copy(update={"execution": sharded}))


def test_models_can_be_chosen_and_gated_ones_left_out() -> None:
    table = expand(load_experiment("table1"), load_profile("paper"))
    assert {row.block for row in table.only_models(["llama-7b", "llama3-*"]).rows} == {
        "llama-7b",
        "llama3-8b",
        "llama3-70b",
    }
    open_to_all = table.only_ungated()
    assert {row.block for row in open_to_all.rows} == {
        row.block for row in table.rows if not row.specs[0].model.gated
    }
    assert 0 < len(open_to_all.rows) < len(table.rows)
    with pytest.raises(ConfigError, match=r"table1: unknown model 'llama-9b'; known: .*llama-7b"):
        table.only_models(["llama-9b"])
    with pytest.raises(ConfigError, match=r"every selected model is gated \(llama3-70b\)"):
        table.only_models(["llama3-70b"]).only_ungated()


def test_labels_name_the_rank_as_the_paper_does() -> None:
    for name in ("table1", "table4", "table5"):
        table = expand(load_experiment(name), load_profile("paper"))
        ours = {(row.block, row.id): row.label for row in table.rows if not row.extra}
        printed = {(row.block, row.row): row.label for row in paper_rows(name)}
        for place, label in printed.items():
            if "(r=" in label:
                assert ours[place] == label
