"""`repro`: plan, run, inspect, re-score and render the experiments of the paper.

Verbs import what they need when they are called, so that `--help` and `plan` answer without loading torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repro.config import ConfigError
from repro.files import check_writable, describe_fault, storage_fault
from repro.study.interruption import Interrupted, stop, told_to_stop

if TYPE_CHECKING:
    from repro.study.execution import Execution
    from repro.study.experiment import Plan
    from repro.study.profile import Profile
    from repro.study.slurm.settings import Cluster
    from repro.study.slurm.submissions import Submissions
    from repro.study.spec import RunSpec
    from repro.study.states import RunState
    from repro.study.store import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point.

    Exit status: 0 done, 1 something failed, 2 a wrong request or a disk that takes nothing, 130 interrupted.
    """
    # Read by OpenMP when torch is loaded. Its threads spin while they wait for each other, which takes the
    # core from the one waited for as soon as any other program runs: two threads on two busy cores took 2.3 s
    # where 0.25 s do. With a shorter spin nothing is lost on an idle machine (0.13 s either way).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    options = _parser().parse_args(arguments)
    try:
        with told_to_stop(stop):
            return int(options.verb(options))
    except ConfigError as error:
        print(f"repro: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit):  # `Interrupted`, and what Lightning makes of the one
        print("repro: interrupted; finished runs are kept, the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        fault = storage_fault(error)
        if fault is None:  # a mistake of this program
            raise
        print(f"repro: {describe_fault(fault, error.filename)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="repro", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    sizing = argparse.ArgumentParser(add_help=False)
    sizing.add_argument(
        "--profile", default="laptop", help="how big: smoke, laptop (default), workstation, paper"
    )
    sizing.add_argument(
        "--seeds", type=_seeds, help="seeds in the place of the profile's, for instance 0,1,2"
    )
    sizing.add_argument("--preset", help="published settings in the place of the experiment's preset")

    common = argparse.ArgumentParser(add_help=False, parents=[sizing])
    common.add_argument("experiment", help="for instance table1; `repro list` shows all")

    verb = verbs.add_parser("list", help="experiments, profiles, models and methods")
    verb.set_defaults(verb=_list)

    verb = verbs.add_parser(
        "plan", parents=[common], help="show the runs of an experiment and what they cost; changes nothing"
    )
    verb.add_argument("--gpu", default="h100", help="the GPU whose hours are estimated, for instance a100")
    verb.set_defaults(verb=_plan)

    verb = verbs.add_parser("run", parents=[sizing], help="execute the missing runs here, then render")
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("experiment", nargs="?", help="for instance table1; `repro list` shows all")
    what.add_argument(
        "--from",
        dest="file",
        metavar="FILE",
        type=Path,
        help="repeat the run of a result file alone, and compare; exit status 1 if it is not the same",
    )
    verb.add_argument("--rows", type=_names, help="only these rows, for instance lora,dual_lora or 'lora*'")
    verb.add_argument("--retry-failed", action="store_true", help="execute failed runs again as well")
    verb.add_argument("--no-wandb", action="store_true", help="do not log to Weights & Biases")
    verb.set_defaults(verb=_run)

    verb = verbs.add_parser(
        "submit", parents=[common], help="execute the missing runs on a SLURM cluster, as arrays"
    )
    verb.add_argument("--rows", type=_names, help="only these rows, for instance lora,dual_lora or 'lora*'")
    verb.add_argument("--retry-failed", action="store_true", help="submit failed runs again as well")
    verb.add_argument("--dry-run", action="store_true", help="print the batch scripts, submit nothing")
    verb.add_argument("--no-wandb", action="store_true", help="do not log to Weights & Biases")
    asked = verb.add_argument_group("what a run asks for, over the profile's section `cluster`")
    asked.add_argument("--partition")
    asked.add_argument("--account")
    asked.add_argument("--time", help="limit before a run is requeued, for instance 24:00:00")
    asked.add_argument("--gpus", help="for instance 1 or a100:1")
    asked.add_argument("--cpus")
    asked.add_argument("--memory", help="for instance 64G")
    asked.add_argument("--concurrent", metavar="N", help="runs of an array that go on at once")
    verb.set_defaults(verb=_submit)

    verb = verbs.add_parser("cancel", parents=[common], help="end an experiment's tasks in SLURM's queue")
    verb.set_defaults(verb=_cancel)

    verb = verbs.add_parser("task", parents=[common], help="execute one run, as a task of a SLURM array")
    verb.add_argument("run", help="the run's hash, or its number in the plan, counted from 0")
    verb.add_argument("--no-wandb", action="store_true", help="do not log to Weights & Biases")
    verb.set_defaults(verb=_task)

    verb = verbs.add_parser("status", parents=[common], help="done, running, pending, missing, failed runs")
    verb.set_defaults(verb=_status)

    verb = verbs.add_parser(
        "score", parents=[common], help="score stored predictions again, without training"
    )
    verb.set_defaults(verb=_score)

    verb = verbs.add_parser("render", parents=[common], help="write and print the table from finished runs")
    verb.set_defaults(verb=_render)

    verb = verbs.add_parser("fig1", help="draw LoRA and Dual LoRA from the modules of a profile's rows")
    verb.add_argument("--profile", default="laptop", help="whose model and ranks")
    verb.set_defaults(verb=_fig1)

    verb = verbs.add_parser("params", help="count the paper's parameter columns again")
    verb.set_defaults(verb=_params)

    verb = verbs.add_parser("audit", help="what does not add up in the paper, and what it leaves open")
    verb.set_defaults(verb=_audit)

    verb = verbs.add_parser("claims", help="test the paper's statements on the finished runs of a profile")
    verb.add_argument("--profile", default="laptop", help="whose runs: smoke, laptop (default), ...")
    verb.set_defaults(verb=_claims)

    verb = verbs.add_parser("report", help="one HTML page over everything that a profile has finished")
    verb.add_argument("--profile", default="laptop", help="whose runs: smoke, laptop (default), ...")
    verb.set_defaults(verb=_report)

    verb = verbs.add_parser(
        "reference",
        help="write results/README.md, its tables and figures from the committed runs of a profile",
    )
    verb.add_argument("--profile", default="laptop", help="whose runs: laptop (default), ...")
    verb.add_argument(
        "--add",
        metavar="FOLDER",
        type=Path,
        help="first take over the finished runs of a results folder, for instance results",
    )
    verb.set_defaults(verb=_reference)

    verb = verbs.add_parser("bench", help="measure speed, in ratios against peft and the arithmetic floor")
    verb.add_argument("--only", type=_names, help="only these parts, for instance layer,step")
    verb.add_argument("--small", action="store_true", help="tiny shapes, to try the benchmark itself")
    verb.set_defaults(verb=_bench)

    verb = verbs.add_parser("readme", help="bring the generated parts of README.md up to date")
    verb.set_defaults(verb=_readme)
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of seeds; write for instance 0,1,2") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _load(options: argparse.Namespace) -> tuple[Plan, Store]:
    from repro.paths import RESULTS
    from repro.study.experiment import load_experiment, plan
    from repro.study.profile import load_profile
    from repro.study.store import Store

    experiment = load_experiment(options.experiment)
    if options.preset:
        experiment = experiment.model_copy(update={"preset": options.preset})
    planned = plan(experiment, load_profile(options.profile), options.seeds)
    return planned, Store(RESULTS / "runs")


def _list(options: argparse.Namespace) -> int:
    from repro.methods.registry import METHODS
    from repro.models.spec import list_models
    from repro.study.experiment import list_experiments
    from repro.study.profile import list_profiles
    from repro.study.settings import list_presets

    for kind, names in [
        ("experiments", list_experiments()),
        ("profiles", list_profiles()),
        ("models", list_models()),
        ("methods", list(METHODS)),
        ("presets", list_presets()),
    ]:
        print(f"{kind + ':':<13}{' '.join(names)}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from repro.analysis.estimates import estimate
    from repro.analysis.gpu import load_gpu
    from repro.report.costs import describe_costs
    from repro.report.plans import describe_plan
    from repro.study.states import run_states

    gpu = load_gpu(options.gpu)
    plan, store = _load(options)
    states = run_states(plan, store)
    costs = describe_costs(plan, estimate(states, plan.execution), gpu)
    print(f"{describe_plan(plan, states)}\n\n{costs}")
    return 0


def _status(options: argparse.Namespace) -> int:
    from repro.report.plans import summarise
    from repro.study.slurm.commands import answers, queue
    from repro.study.states import State, run_states

    plan, store = _load(options)
    tasks = queue() if answers() else None
    states = run_states(plan, store)
    if tasks is not None:
        states = _submissions().joined(states, tasks)
    for state in states:
        print(f"{state.state:<11}{state.spec.slug}" + (f"  {state.detail}" if state.detail else ""))
    print(summarise(states))
    return 1 if any(state.state in (State.FAILED, State.UNREADABLE) for state in states) else 0


def _run(options: argparse.Namespace) -> int:
    if options.file is not None:
        return _repeat(options)
    from repro.report.plans import describe_batches
    from repro.study.states import run_states, to_execute

    plan, store = _load(options)
    states = run_states(plan.only(options.rows) if options.rows else plan, store)
    for state in states:
        if state.result is not None:
            store.sweep(state.spec)
    specs = to_execute(states, retry_failed=options.retry_failed)
    done = sum(state.result is not None for state in states)
    name, profile = plan.experiment.name, plan.profile.name
    print(f"{name}, profile {profile}: {done} of {len(states)} runs are done, executing {len(specs)}")
    for line in describe_batches(plan, specs):
        print(line)
    if specs:
        _execute(plan.profile, specs, store, options, plan.experiment.name)
    states = run_states(plan, store)
    problems = _problems(states)
    if plan.experiment.ranks is not None:
        problems += _analyse_ranks(plan, states, store)
    _print_experiment(plan, states, store)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _repeat(options: argparse.Namespace) -> int:
    """Execute the run of a result file, unless it is done here, and hold the two against each other."""
    from repro.analysis.repetition import compare
    from repro.paths import RESULTS
    from repro.report.repetition import describe_repetition
    from repro.study.profile import load_profile
    from repro.study.repeating import read_run
    from repro.study.states import run_state
    from repro.study.store import RESULT, Store

    spec, before = read_run(options.file)
    store = Store(RESULTS / "runs")
    if options.file.resolve() == (store.directory(spec) / RESULT).resolve():
        raise ConfigError(
            f"{options.file} is where its own repetition would go; copy it elsewhere, or set "
            "REPRO_RESULTS_DIR to another folder"
        )
    first = [spec.init_from.run] if spec.init_from else []
    specs = [needed for needed in [*first, spec] if not store.is_done(needed)]
    print(f"{spec.slug}: {'executing it' if specs else 'is done here, comparing'}", file=sys.stderr)
    if specs:
        _execute(load_profile(options.profile), specs, store, options, "repeated")
    state = run_state(spec, store)
    if state.result is None:
        print("\n".join(_problems([state])) or f"{state.state}: {spec.slug}", file=sys.stderr)
        return 1
    repetition = compare(before, state.result)
    print(describe_repetition(repetition))
    return 0 if repetition.within_tolerance else 1


def _execute(
    profile: Profile, specs: Sequence[RunSpec], store: Store, options: argparse.Namespace, group: str
) -> None:
    check_writable(store.folder)  # before torch is loaded, let alone something trained

    from rich.console import Console

    from repro.study.local import run_here
    from repro.study.watch import Watch

    def execution(spec: RunSpec) -> Execution:
        settings = profile.execution_for(spec.benchmark.family, spec.model.name)
        return settings.model_copy(update={"wandb": settings.wandb and not options.no_wandb})

    run_here(
        specs,
        store=store,
        execution=execution,
        group=group,
        watch=Watch(len(specs), Console(stderr=True)),
    )


def _submissions() -> Submissions:
    from repro.paths import RESULTS
    from repro.study.slurm.submissions import Submissions

    return Submissions(RESULTS / "slurm")


def _submit(options: argparse.Namespace) -> int:
    from repro.study.slurm.submit import submit

    plan, store = _load(options)
    command = [sys.executable, "-m", "repro.cli", "task", options.experiment, "--profile", options.profile]
    if options.seeds:
        command += ["--seeds", ",".join(map(str, options.seeds))]
    if options.preset:
        command += ["--preset", options.preset]
    if options.no_wandb:
        command += ["--no-wandb"]
    count = 0
    for array in submit(
        plan.only(options.rows) if options.rows else plan,
        store,
        _submissions(),
        cluster=lambda spec: _cluster(plan, spec, options),
        command=command,
        retry_failed=options.retry_failed,
        dry_run=options.dry_run,
    ):
        count += array.tasks
        waits = f", each after the task of {array.after} with its number" if array.after else ""
        if options.dry_run:
            print(f"{array.script}# not submitted: {array.name}, {array.tasks} tasks{waits}\n")
        else:
            print(f"job {array.job}: {array.name}, {array.tasks} tasks{waits}")
    print(f"{count} runs {'would be ' if options.dry_run else ''}submitted", file=sys.stderr)
    return 0


def _cluster(plan: Plan, spec: RunSpec, options: argparse.Namespace) -> Cluster:
    """What the profile asks of a cluster, and over it what the flags ask."""
    from repro.config import parse
    from repro.study.slurm.settings import Cluster

    names = ("partition", "account", "time", "gpus", "cpus", "memory", "concurrent")
    flags = {name: value for name in names if (value := getattr(options, name)) is not None}
    return parse(plan.profile.cluster_for(spec.model.name).model_dump() | flags, Cluster, "submit")


def _cancel(options: argparse.Namespace) -> int:
    from repro.study.slurm.commands import cancel, queue

    plan, _ = _load(options)
    queued = _submissions().queued(queue())
    tasks = [task for hash, task in queued.items() if hash in plan.runs]
    if tasks:
        cancel(tasks)
    print(f"{len(tasks)} tasks cancelled")
    return 0


def _task(options: argparse.Namespace) -> int:
    from repro.study.slurm.commands import requeue_this_task, restarts

    plan, store = _load(options)
    spec = plan.run(options.run)
    print(f"start {restarts() + 1}: {spec.slug}", file=sys.stderr)
    try:
        _execute(plan.profile, [spec], store, options, plan.experiment.name)
    except Interrupted:
        if restarts() >= plan.profile.cluster_for(spec.model.name).restarts:
            print("told to stop once more than cluster.restarts allows, not requeued", file=sys.stderr)
            return 1
        with told_to_stop(lambda: None):  # SLURM ends what it requeues
            requeued = requeue_this_task()
        what = ": requeued, to go on from the last checkpoint" if requeued else " for good, not requeued"
        print(f"told to stop{what}", file=sys.stderr)
        return 130
    return 0 if store.is_done(spec) else 1


def _problems(states: Sequence[RunState]) -> list[str]:
    from repro.study.states import State

    lines = []
    for state in states:
        if state.state is State.FAILED:
            how = "the same command executes it again" if state.again else "--retry-failed executes it again"
            lines.append(f"failed: {state.spec.slug}: {state.detail}; {how}")
        elif state.state is State.UNREADABLE:
            lines.append(f"unreadable: {state.detail}")
    return lines


def _score(options: argparse.Namespace) -> int:
    from repro.study.result import score_warnings
    from repro.study.states import State, run_states

    plan, store = _load(options)
    states = run_states(plan, store)
    problems = [f"unreadable: {state.detail}" for state in states if state.state is State.UNREADABLE]
    for state in states:
        if state.result is None:
            continue
        benchmark = state.spec.benchmark
        try:
            predictions = store.predictions(state.spec)
        except ConfigError as error:
            problems.append(f"not scored: {error}")
            continue
        scores = benchmark.score(predictions)
        changed = sum(scores[name] != state.result.scores.get(name) for name in scores)
        evaluation = state.result.evaluation.model_copy(update={"scorer_version": benchmark.scorer_version})
        renewed = {
            "scores": scores,
            "evaluation": evaluation,
            "warnings": tuple(score_warnings(scores)),
        }
        store.write_result(state.spec, state.result.model_copy(update=renewed))
        scored = f"scored with version {benchmark.scorer_version}"
        print(f"{state.spec.slug}: {scored}, {changed} of {len(scores)} scores changed")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _render(options: argparse.Namespace) -> int:
    from repro.study.states import run_states

    plan, store = _load(options)
    _print_experiment(plan, run_states(plan, store), store)
    return 0


def _analyse_ranks(plan: Plan, states: Sequence[RunState], store: Store) -> list[str]:
    """Work out the ranks of finished runs that are not known yet. Returns why some are not, a line each."""
    from repro.analysis.run_ranks import random_ranks, run_ranks
    from repro.quiet import quiet_libraries
    from repro.study.bases import BaseModels

    bases, problems = BaseModels(), []
    for state in states:
        if state.result is not None:
            print(f"ranks of {state.spec.title}", file=sys.stderr)
            try:
                with quiet_libraries():
                    run_ranks(state.spec, store, bases)
            except ConfigError as error:
                problems.append(f"no ranks: {error}")
    wanted = plan.experiment.ranks
    assert wanted is not None
    try:
        random_ranks(wanted.random_size, wanted.random_rank, store.folder.parent)
    except ConfigError as error:
        problems.append(f"no ranks: {error}")
    return problems


def _print_experiment(plan: Plan, states: Sequence[RunState], store: Store) -> None:
    from repro.paths import RESULTS
    from repro.report.output import write_experiment

    text, written = write_experiment(plan, states, store, RESULTS)
    print(f"\n{text}\n\nwritten: " + ", ".join(_short(path) for path in written))


def _fig1(options: argparse.Namespace) -> int:
    from repro.paths import RESULTS
    from repro.report.architecture import draw_architecture
    from repro.study.experiment import load_experiment, plan
    from repro.study.profile import load_profile

    profile = load_profile(options.profile)
    drawn = draw_architecture(plan(load_experiment("table1"), profile), RESULTS / "figures" / profile.name)
    print("written: " + ", ".join(_short(path) for path in drawn))
    return 0


def _params(options: argparse.Namespace) -> int:
    from repro.analysis.parameters import parameter_entries
    from repro.quiet import quiet_libraries
    from repro.report.audit import parameters_page

    with quiet_libraries():
        entries = list(parameter_entries())
    return _print_page("parameters", parameters_page(entries))


def _audit(options: argparse.Namespace) -> int:
    from repro.analysis.audit import audit_items, averages
    from repro.report.audit import audit_page

    return _print_page("audit", audit_page(audit_items(), list(averages())))


def _claims(options: argparse.Namespace) -> int:
    from repro.analysis.claims import load_ledger, score_claims
    from repro.paths import RESULTS
    from repro.report.claims import claims_page
    from repro.study.experiment import load_experiment, plan
    from repro.study.profile import load_profile
    from repro.study.store import Store

    ledger, profile = load_ledger(), load_profile(options.profile)
    plans = {name: plan(load_experiment(name), profile) for name in ledger.experiments}
    scored = score_claims(ledger, plans, Store(RESULTS / "runs"))
    return _print_page(f"{profile.name}/claims", claims_page(ledger, scored, profile))


def _report(options: argparse.Namespace) -> int:
    from repro.analysis.audit import audit_items
    from repro.analysis.claims import load_ledger, score_claims
    from repro.paths import RESULTS
    from repro.report.output import write_text
    from repro.report.page import build_page
    from repro.study.experiment import list_experiments, load_experiment, plan
    from repro.study.profile import load_profile
    from repro.study.states import run_states
    from repro.study.store import Store

    profile, store = load_profile(options.profile), Store(RESULTS / "runs")
    plans = {name: plan(load_experiment(name), profile) for name in list_experiments()}
    page = build_page(
        [(planned, run_states(planned, store)) for planned in plans.values()],
        RESULTS / "figures" / profile.name,
        score_claims(load_ledger(), plans, store),
        audit_items(),
    )
    print(f"written: {_short(write_text(RESULTS / 'report' / f'{profile.name}.html', page))}")
    return 0


def _reference(options: argparse.Namespace) -> int:
    from repro.paths import REFERENCE
    from repro.report.output import write_experiment, write_text
    from repro.report.reference import ReferencePage, page_texts
    from repro.report.speed import write_speed
    from repro.study.profile import load_profile
    from repro.study.reference import reference_plans, take_over
    from repro.study.store import Store

    profile, store = load_profile(options.profile), Store(REFERENCE / "runs")
    if options.add is not None:
        for line in take_over(profile, Store(options.add / "runs"), store):
            print(line)
    page = ReferencePage(profile, reference_plans(profile, store), store)
    for name in page.finished:
        _, written = write_experiment(page.plans[name], page.states[name], store, REFERENCE)
        print(f"{name}: {sum(s.result is not None for s in page.states[name])} runs, {len(written)} files")
    if page.speed is not None:
        write_speed(page.speed, REFERENCE)
    for path, text in page_texts(page, REFERENCE.parent).items():
        print(f"written: {_short(write_text(path, text))}")
    return 0


def _print_page(name: str, text: str) -> int:
    from repro.paths import RESULTS
    from repro.report.output import write_text

    print(f"{text}\nwritten: {_short(write_text(RESULTS / 'tables' / f'{name}.md', text))}")
    return 0


def _short(path: Path) -> str:
    """The path as one would type it here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _bench(options: argparse.Namespace) -> int:
    from repro.bench.suite import measure
    from repro.paths import RESULTS
    from repro.report.speed import write_speed

    table, written = write_speed(measure(options.only, small=options.small), RESULTS)
    print(f"{table}\nwritten: " + ", ".join(_short(path) for path in written))
    return 0


def _readme(options: argparse.Namespace) -> int:
    from repro.paths import ROOT
    from repro.report.readme import with_generated_parts

    path = ROOT / "README.md"
    path.write_text(with_generated_parts(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
