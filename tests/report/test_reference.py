"""The committed results: valid, from a clean checkout, not of random weights; and their page."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from repro.paths import REFERENCE, ROOT
from repro.plans.profile import load_profile
from repro.report.output import write_experiment
from repro.report.reference import ReferencePage, page_texts
from repro.runs.rerun import read_run
from repro.runs.result import Result
from repro.runs.store import Store

FILES = sorted(REFERENCE.glob("runs/*/result.json"))


@pytest.fixture(scope="module")
def page() -> ReferencePage:
    profiles = [load_profile(name) for name in ("overnight", "laptop")]
    return ReferencePage(profiles, Store(REFERENCE / "runs"))


def test_the_page_and_its_tables_are_what_the_committed_runs_say(page: ReferencePage) -> None:
    texts = page_texts(page, ROOT / "results")
    stale = [path.name for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"{stale} are out of date: run `make reference`"
    left = {*(REFERENCE / "tables").rglob("*.md")} - texts.keys()
    assert not left, f"no committed run is behind {left}: delete them"


def test_every_committed_run_is_one_of_an_experiment(page: ReferencePage) -> None:
    stands = [stand for scale in page.scales for stand in scale.values()]
    known = {result.slug for stand in stands for result in stand.results}
    assert {path.parent.name for path in FILES} == known


def test_local_data_is_shown_without_having_it(page: ReferencePage) -> None:
    """The committed E2E runs used the real data set, which a fresh clone does not have."""
    runs = page.stands["table4"].results
    assert len(runs) > 1
    assert {run.spec["benchmark"]["source"] for run in runs} == {"local"}


def test_gains_and_norms_are_of_one_scale(page: ReferencePage) -> None:
    """Some experiments are shown at a smaller scale, where fewer steps leave a smaller update."""
    assert len({stand.plan.profile.name for stand in page.stands.values()}) > 1
    budgets = {point.planned.specs[0].training.warmup_steps for point in page.norms}
    assert budgets == {page.plans["table1"].rows[0].specs[0].training.warmup_steps}


@pytest.mark.parametrize(("name", "shown"), [("fig2", False), ("sweeps/rate_curves", True)])
def test_curvature_is_shown_where_the_learning_rate_varies(
    name: str, shown: bool, page: ReferencePage, tmp_path: Path
) -> None:
    """Figure 2 at the scale `laptop` shares a run whose curvature is known."""
    stand = page.scales[1][name]
    write_experiment(stand.plan, stand.states, Store(REFERENCE / "runs"), tmp_path)
    (peaks,) = tmp_path.rglob("*-peaks.csv")
    assert pd.read_csv(peaks)["curvature"].notna().any() == shown


def test_every_verdict_of_the_ledger_is_on_the_page_once(page: ReferencePage) -> None:
    """Except for claims about models that the profile does not run: these are counted."""
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    counts = [text.count(f"- {s.claim.text} ") for s in page.scored]
    assert counts == [0 if s.untouched else 1 for s in page.scored]
    assert f"- {counts.count(0)} statements are about single base models" in text


def test_every_file_that_the_page_shows_or_links_exists() -> None:
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)h][^)]*)\)", text):
        assert (ROOT / "results" / target).exists(), target


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_a_reference_run_can_be_rebuilt_from_its_file(path: Path) -> None:
    spec, _ = read_run(path)
    assert path.parent.name == spec.slug


# Runs of E2E of whose 4 probed texts 3 changed with the batch, where 2 may: in bf16 beams part at near ties.
# Each one's adapter was tried in fp32 on the 4 longest items: no text changed.
PARTED_BEAMS = {"22a488ffbfe5", "02a0a4625dae", "67c6f20ddea4"}
# HiRA at the rate 0.3, where training diverged: log-likelihoods near -1,200 nats, which merging changes by up
# to 0.016, 0.005 being allowed. The page says so.
DIVERGED = {"9f663599352c"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_a_reference_result_can_be_believed(path: Path) -> None:
    result = Result.model_validate_json(path.read_text(encoding="utf-8"))
    assert path.parent.name == result.slug
    assert result.environment.commit is not None
    assert result.environment.dirty is False
    assert result.spec["model"]["source"] != "random"
    broken = {probe.name for probe in result.probes if probe.warning}
    expected = {"batch of 1 = batch of N"} if result.hash in PARTED_BEAMS else set()
    assert broken == ({"merged = unmerged"} if result.hash in DIVERGED else expected)
    for score in result.scores.values():
        assert len(score.outcomes) == score.items
        if isinstance(score.outcomes, str):
            assert score.value == pytest.approx(100 * score.outcomes.count("1") / score.items)
