"""The facts that are counted for a claim, on runs made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.analysis.claims import score_claims
from repro.analysis.facts import size_holds
from repro.analysis.ledger import load_ledger
from repro.plans.experiment import load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import load_profile
from repro.runs.json_files import write_json
from repro.runs.known_ranks import Rank, RunRanks
from repro.runs.store import DIAGNOSTICS, RANKS, Store
from repro.training.diagnostics import Diagnostics

PLANS = {name: expand(load_experiment(name), load_profile("laptop")) for name in load_ledger().experiments}


def verdicts(store: Store) -> dict[str, str]:
    return {s.claim.id: s.verdict for s in score_claims(load_ledger(), PLANS, store)}


def rank(part: str, numerical: int, layer: str) -> Rank:
    return Rank(
        layer=layer,
        part=part,
        shape=(100, 200),
        numerical=numerical,
        stable=1,
        effective=1,
        spectrum=(1.0,),
    )


def with_ranks(store: Store, **parts: int) -> None:
    """Ranks of LoRA's update and of Dual LoRA's parts, the same in two layers."""
    planned: Plan = PLANS["fig3"]
    for row in planned.rows:
        names = {"lora": ["lora"], "dual_lora": ["update", "magnitude", "direction"]}[row.id]
        found = tuple(
            rank("update" if name == "lora" else name, parts[name], layer)
            for name in names
            for layer in ("a", "b")
        )
        folder = store.directory(row.specs[0])
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RANKS, RunRanks(trained=found, untrained=found))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            {"lora": 16, "update": 99, "magnitude": 90, "direction": 98},
            {
                "lora-rank": "contradicted",  # the factors on the laptop have 16, see below
                "update-full-rank": "reproduced",
                "direction-full-rank": "reproduced",
                "magnitude-lower-rank": "reproduced",
                "magnitude-above-lora": "contradicted",
            },
        ),
        (
            {"lora": 4, "update": 94, "magnitude": 98, "direction": 94},
            {
                "lora-rank": "reproduced",
                "update-full-rank": "contradicted",
                "direction-full-rank": "contradicted",
                "magnitude-lower-rank": "contradicted",
                "magnitude-above-lora": "reproduced",
            },
        ),
    ],
)
def test_ranks_are_held_against_what_is_said_of_them(
    parts: dict[str, int], expected: dict[str, str], tmp_path: Path
) -> None:
    store = Store(tmp_path)
    factors = PLANS["fig3"].rows[0].specs[0].method.printed_rank or 0
    with_ranks(store, **parts | {"lora": parts["lora"] if parts["lora"] < factors else factors + 1})
    found = verdicts(store)
    assert {name: found[name] for name in expected} == expected


def test_zeros_are_counted_at_the_end_of_training(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def look(share: float) -> Diagnostics:
        layers = {name: {"unchanged": (1.0, share)} for name in ("a", "b")}
        return Diagnostics(steps=(0, 9), layers=layers, merge_errors={})

    shares = {"relu": 0.5, "abs": 0.0, "sigmoid": 0.0}
    for row in PLANS["table6"].rows:
        folder = store.directory(row.specs[0])
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / DIAGNOSTICS, look(shares[row.id]))
    # ReLU's run is Dual LoRA's of Figure 3; LoRA's is missing, so that claim is not complete.
    assert (verdicts(store)["no-zeros"], verdicts(store)["frozen-entries"]) == ("reproduced", "undecided")
    sigmoid = next(row for row in PLANS["table6"].rows if row.id == "sigmoid")
    write_json(store.directory(sigmoid.specs[0]) / DIAGNOSTICS, look(0.2))
    assert verdicts(store)["no-zeros"] == "contradicted"


def test_sizes_are_counted_on_the_papers_models_under_every_profile(tmp_path: Path) -> None:
    found = {s.claim.id: s for s in score_claims(load_ledger(), PLANS, Store(tmp_path))}
    (over,) = [fact for fact in found["two-percent"].facts if not fact.holds]
    assert over.block == "llama-7b" and over.found.startswith("3.54 %")
    hira = [fact for fact in found["fewer-parameters"].facts if "HiRA" in fact.found]
    assert [fact.holds for fact in hira] == [False, False]
    assert found["nlg-same-size"].verdict == "reproduced"


@pytest.mark.parametrize(
    ("relation", "own", "other", "holds"),
    [
        ("fewer", 0.83, 0.84, True),
        ("fewer", 0.83, 0.83, False),
        ("same_or_fewer", 1.003, 1.0, True),
        ("same_or_fewer", 1.01, 1.0, False),
        ("equal", 1.01, 1.0, False),
    ],
)
def test_sizes_are_the_same_to_half_a_percent(relation: str, own: float, other: float, holds: bool) -> None:
    assert size_holds(relation, own, other) is holds
