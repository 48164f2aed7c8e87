"""Verbs that write pages, figures and tables from existing results, and the speed benchmark."""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

from repro.cli.shared import short, tell
from repro.config import ConfigError


def draw_fig1(options: argparse.Namespace) -> int:
    """`fig1`: draw a layer under LoRA and under Dual LoRA."""
    from repro.paths import RESULTS
    from repro.plans.experiment import load_experiment
    from repro.plans.plan import expand
    from repro.plans.profile import load_profile
    from repro.report.architecture import draw_architecture

    profile = load_profile(options.profile)
    drawn = draw_architecture(expand(load_experiment("table1"), profile), RESULTS / "figures" / profile.name)
    print("written: " + ", ".join(short(path) for path in drawn))
    return 0


def show_parameters(options: argparse.Namespace) -> int:
    """`params`: every printed parameter count next to a recount."""
    from repro.analysis.parameters import parameter_entries
    from repro.quiet import quiet_libraries
    from repro.report.audit import parameters_page

    with quiet_libraries():
        entries = list(parameter_entries())
    return _print_page("parameters", parameters_page(entries))


def show_audit(options: argparse.Namespace) -> int:
    """`audit`: errors in the paper, and information that it lacks."""
    from repro.analysis.claims_on_paper import claims_on_paper
    from repro.analysis.ledger import load_ledger
    from repro.report.audit import audit_page

    return _print_page("audit", audit_page(claims_on_paper(load_ledger())))


def show_claims(options: argparse.Namespace) -> int:
    """`claims`: the paper's statements, tested on a profile's finished runs or on the paper's own numbers."""
    from repro.analysis.claims import score_claims
    from repro.analysis.claims_on_paper import claims_on_paper
    from repro.analysis.damaged_files import damaged_files, damaged_speed
    from repro.analysis.ledger import load_ledger
    from repro.paths import RESULTS
    from repro.plans.experiment import load_experiment
    from repro.plans.plan import expand
    from repro.plans.profile import load_profile
    from repro.report.claims import claims_page, paper_claims_page
    from repro.report.power import draw_power
    from repro.runs.states import run_states
    from repro.runs.store import Store

    ledger = load_ledger()
    if options.paper:
        return _print_page("paper_claims", paper_claims_page(claims_on_paper(ledger)))
    profile = load_profile(options.profile)
    plans = {name: expand(load_experiment(name), profile) for name in ledger.experiments}
    store = Store(RESULTS / "runs")
    scored = score_claims(ledger, plans, store)
    _print_page(f"{profile.name}/claims", claims_page(ledger, scored, [profile]))
    states = {name: run_states(planned, store) for name, planned in plans.items()}
    for path in draw_power(plans["table1"], states["table1"], RESULTS / "figures" / profile.name):
        print(f"written: {short(path)}")
    every = (state for found in states.values() for state in found)
    return tell([*damaged_files(every, store), *damaged_speed(RESULTS)])


def write_report(options: argparse.Namespace) -> int:
    """`report`: one HTML page of a profile's results."""
    from repro.analysis.audit import audit_items
    from repro.analysis.claims import score_claims
    from repro.analysis.damaged_files import damaged_files, damaged_random_ranks, damaged_speed
    from repro.analysis.ledger import load_ledger
    from repro.analysis.norms import norm_points
    from repro.paths import REFERENCE, RESULTS, ROOT
    from repro.plans.experiment import list_experiments, load_experiment
    from repro.plans.plan import expand
    from repro.plans.profile import load_profile
    from repro.report.architecture import draw_architecture
    from repro.report.norms import draw_norms
    from repro.report.output import draw_experiment, write_text
    from repro.report.page import build_page
    from repro.runs.reference import reference_plans
    from repro.runs.states import run_states
    from repro.runs.store import Store

    # A clean checkout has no other results than the committed ones.
    results = REFERENCE if RESULTS == ROOT / "results" and not (RESULTS / "runs").is_dir() else RESULTS
    profile, store = load_profile(options.profile), Store(results / "runs")
    if results.resolve() == REFERENCE:
        print(f"runs: the committed ones, of {short(store.folder)}")
        plans = reference_plans(profile, store)
    else:
        plans = {name: expand(load_experiment(name), profile) for name in list_experiments()}
    stand = [(planned, run_states(planned, store)) for planned in plans.values()]
    # Drawn for this page, so that no picture is older than the numbers beside it.
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder)
        for planned, found in stand:
            if any(state.result for state in found):
                draw_experiment(planned, found, store, figures)
        draw_architecture(plans["table1"], figures)
        by_name = {name: states for name, (_, states) in zip(plans, stand, strict=True)}
        draw_norms(norm_points(plans, by_name, store), profile, figures)
        page, problems = build_page(
            stand, store, figures, score_claims(load_ledger(), plans, store), audit_items()
        )
    print(f"written: {short(write_text(RESULTS / 'report' / f'{profile.name}.html', page))}")
    states = (state for _, found in stand for state in found)
    problems += damaged_files(states, store) + damaged_speed(results)
    experiments = (planned.experiment for planned in plans.values())
    return tell([*problems, *damaged_random_ranks(experiments, results)])


def write_reference(options: argparse.Namespace) -> int:
    """`reference`: results/README.md and the pages it links, from the committed runs."""
    from repro.analysis.damaged_files import damaged_files, damaged_random_ranks, damaged_speed
    from repro.paths import REFERENCE
    from repro.plans.profile import load_profile
    from repro.report.output import write_experiment, write_norms, write_text
    from repro.report.power import draw_power
    from repro.report.reference import ReferencePage, page_texts
    from repro.report.speed import draw_speed, write_speed_table
    from repro.report.verdicts import draw_verdicts
    from repro.runs.reference import import_runs
    from repro.runs.store import Store

    profiles, store = [load_profile(name) for name in options.profile], Store(REFERENCE / "runs")
    problems: list[str] = []
    if options.add is not None:
        if not any((options.add / name).is_dir() for name in ("runs", "bench", "curvature")):
            raise ConfigError(
                f"--add {options.add}: no results folder; give one with runs/, bench/ or curvature/ in it"
            )
        for profile in profiles:
            for line in import_runs(profile, Store(options.add / "runs"), store):
                print(line)
                problems += [line] if line.startswith("damaged: ") else []
    page = ReferencePage(profiles, store)
    for stand in page.finished:
        _, written = write_experiment(stand.plan, stand.states, store, REFERENCE)
        name = f"{stand.plan.profile.name}, {stand.plan.experiment.name}"
        print(f"{name}: {len(stand.results)} runs, {len(written)} files")
    for path in draw_verdicts(page.scored, page.scales_of, REFERENCE / "figures"):
        print(f"written: {short(path)}")
    for path in write_norms(page.norms, page.plans["table1"].profile, REFERENCE):
        print(f"written: {short(path)}")
    for speed in page.speeds:
        write_speed_table(speed, REFERENCE)
        draw_speed(speed, REFERENCE)
    table1 = page.stands["table1"]
    draw_power(*table1, REFERENCE / "figures" / table1.plan.profile.name)
    for path, text in page_texts(page, REFERENCE.parent).items():
        print(f"written: {short(write_text(path, text))}")
    states = (state for stand in page.stands.values() for state in stand.states)
    experiments = (planned.experiment for planned in page.plans.values())
    problems += damaged_files(states, store) + damaged_speed(REFERENCE)
    return tell([*problems, *damaged_random_ranks(experiments, REFERENCE)])


def renew_readme(options: argparse.Namespace) -> int:
    """`readme`: the generated parts of README.md."""
    from repro.paths import ROOT
    from repro.report.output import write_text
    from repro.report.readme import with_generated_parts

    path = ROOT / "README.md"
    write_text(path, with_generated_parts(path.read_text(encoding="utf-8")))
    return 0


def measure_speed(options: argparse.Namespace) -> int:
    """`bench`: measure speed, and print and write the ratios."""
    started = time.monotonic()  # the imports take some seconds of what is given
    from repro.paths import RESULTS
    from repro.report.speed import draw_speed, speed_table, write_speed
    from repro.speed.suite import chosen_device, measure, measuring_time

    device = chosen_device(options.device)
    budget = measuring_time(options.minutes, device, started)
    keep = partial(write_speed, results=RESULTS)  # as it goes: what there is stays if the process is ended
    measured = measure(options.only, small=options.small, device=device, budget=budget, keep=keep)
    written = [*keep(measured), *draw_speed(measured, RESULTS)]
    print(f"{speed_table(measured)}\nwritten: " + ", ".join(short(path) for path in written))
    return 0


def _print_page(name: str, text: str) -> int:
    from repro.paths import RESULTS
    from repro.report.output import write_text

    print(f"{text}\nwritten: {short(write_text(RESULTS / 'tables' / f'{name}.md', text))}")
    return 0
