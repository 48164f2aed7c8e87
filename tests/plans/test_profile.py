"""A profile needs a section for a benchmark family only when an experiment of that family is planned."""

from __future__ import annotations

import pytest

from repro.config import ConfigError
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile


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
