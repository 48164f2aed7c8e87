"""The verbs of `repro` and their options."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from repro.cli import adapters, cluster, experiments, fetch, pages, rehearse


def build_parser() -> argparse.ArgumentParser:
    """The parser. It puts the verb's function into `verb`: it takes the options, returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="repro", description="plan, run, inspect, score and render the experiments of the paper"
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    sizing = argparse.ArgumentParser(add_help=False)
    sizing.add_argument(
        "--profile", default="laptop", help="how big: smoke, laptop (default), overnight, workstation, paper"
    )
    sizing.add_argument(
        "--seeds", type=_seeds, help="these seeds instead of the profile's, for instance 0,1,2"
    )
    sizing.add_argument("--preset", help="this preset instead of the experiment's; `repro list` shows all")
    sizing.add_argument(
        "--data",
        choices=("local", "hub", "package", "synthetic", "profile"),
        help="the source of all data; profile: the profile's, whether REPRO_DATA_DIR is set or not",
    )

    choosing = argparse.ArgumentParser(add_help=False)
    choosing.add_argument(
        "--rows", type=_names, help="only these rows, for instance lora,dual_lora or 'lora*'"
    )
    choosing.add_argument(
        "--models", type=_names, help="only these models, for instance llama-7b or 'llama*'"
    )
    choosing.add_argument(
        "--ungated", action="store_true", help="only models that need no licence accepted at the hub"
    )

    common = argparse.ArgumentParser(add_help=False, parents=[sizing])
    common.add_argument("experiment", help="for instance table1; `repro list` shows all")

    verb = verbs.add_parser("list", help="experiments, profiles, models and methods")
    verb.set_defaults(verb=experiments.show_names)

    verb = verbs.add_parser(
        "plan",
        parents=[common, choosing],
        help="show the runs of an experiment and what they cost; changes nothing",
    )
    verb.add_argument("--gpu", default="h100", help="the GPU whose hours are estimated, for instance a100")
    verb.set_defaults(verb=experiments.show_plan)

    verb = verbs.add_parser(
        "fetch", help="download the models and data of experiments from the hub, and check every file"
    )
    verb.add_argument("experiments", metavar="experiment", nargs="+", help="for instance table1 table2")
    verb.add_argument("--profile", default="laptop", help="whose models: paper needs the hub")
    verb.add_argument("--models", type=_names, help="only these models and their data: llama-7b, 'llama*'")
    verb.add_argument("--ungated", action="store_true", help="only models without a licence to accept")
    verb.add_argument("--dry-run", action="store_true", help="print the sizes, download nothing")
    verb.set_defaults(verb=fetch.fetch)

    verb = verbs.add_parser(
        "run", parents=[sizing, choosing], help="execute the missing runs on this machine, then render"
    )
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("experiment", nargs="?", help="for instance table1; `repro list` shows all")
    what.add_argument(
        "--from",
        dest="file",
        metavar="FILE",
        type=Path,
        help="repeat the run of a result file and compare; exit status 1 if the two differ",
    )
    verb.add_argument("--retry-failed", action="store_true", help="execute failed runs again as well")
    verb.add_argument("--no-wandb", action="store_true", help="do not log to Weights & Biases")
    verb.add_argument("--check", action="store_true", help="exit status 1 if a probe of these runs failed")
    verb.set_defaults(verb=experiments.run)

    verb = verbs.add_parser(
        "submit", parents=[common, choosing], help="submit the missing runs to SLURM, as arrays"
    )
    verb.add_argument("--retry-failed", action="store_true", help="submit failed runs again as well")
    verb.add_argument("--dry-run", action="store_true", help="print the batch scripts, submit nothing")
    verb.add_argument("--no-wandb", action="store_true", help="do not log to Weights & Biases")
    asked = verb.add_argument_group("what a task asks for; overrides the profile's section `cluster`")
    asked.add_argument("--partition")
    asked.add_argument("--account")
    asked.add_argument("--time", help="time limit of one start of a task, for instance 24:00:00")
    asked.add_argument("--gpus", help="for instance 1 or a100:1")
    asked.add_argument("--cpus", type=int)
    asked.add_argument("--memory", help="for instance 64G")
    asked.add_argument("--concurrent", metavar="N", type=int, help="how many tasks of an array run at once")
    asked.add_argument(
        "--runs-per-task",
        metavar="N",
        type=int,
        help="how many runs of one model a task executes one after the other; it loads the model once",
    )
    verb.set_defaults(verb=cluster.submit_runs)

    verb = verbs.add_parser(
        "rehearse",
        parents=[choosing],
        help="execute a profile's runs with tiny models and data made here, then say what the real ones need",
    )
    verb.add_argument(
        "experiments",
        nargs="*",
        metavar="EXPERIMENT",
        help="for instance table1; none: all but the sweeps and questions",
    )
    verb.add_argument("--profile", default="paper", help="whose runs: paper (default), ...")
    verb.add_argument(
        "--jobs", type=_positive, default=rehearse.default_jobs(), help="processes at once (%(default)s)"
    )
    verb.add_argument("--gpu", default="h100", help="the GPU whose memory the real runs are fitted to")
    verb.add_argument("--submit", action="store_true", help="also execute a run as a task of SLURM")
    verb.set_defaults(verb=rehearse.rehearse)

    verb = verbs.add_parser(
        "cancel", parents=[common, choosing], help="take an experiment's runs out of SLURM's queue"
    )
    verb.set_defaults(verb=cluster.cancel_runs)

    verb = verbs.add_parser(
        "task", parents=[common], help="execute runs one after the other, as a task of a SLURM array"
    )
    verb.add_argument(
        "runs", metavar="RUN", nargs="+", help="a run's hash, or its number in the plan, counted from 0"
    )
    verb.add_argument("--no-wandb", action="store_true", help="do not log to Weights & Biases")
    verb.set_defaults(verb=cluster.execute_task)

    verb = verbs.add_parser(
        "status",
        parents=[common, choosing],
        help="which runs are done, queued, missing, lost, failed or damaged",
    )
    verb.set_defaults(verb=experiments.show_status)

    verb = verbs.add_parser(
        "score", parents=[common, choosing], help="score stored predictions again, without training"
    )
    verb.set_defaults(verb=experiments.score)

    verb = verbs.add_parser(
        "render", parents=[common, choosing], help="print and write the table or figure from finished runs"
    )
    verb.add_argument(
        "--costs",
        action="store_true",
        help="with columns of costs: training time, memory, adapter size, test time and PSCP",
    )
    verb.set_defaults(verb=experiments.render)

    verb = verbs.add_parser(
        "curvature",
        parents=[common, choosing],
        help="the largest eigenvalue of the loss's Hessian where each row's runs start; takes minutes a row",
    )
    verb.add_argument(
        "--batches", type=_positive, default=1, help="optimiser batches of the loss (%(default)s)"
    )
    verb.set_defaults(verb=experiments.measure_curvature)

    verb = verbs.add_parser(
        "unmerged",
        parents=[common, choosing],
        help="test finished runs again without merging their adapters; trains nothing, needs the adapters",
    )
    verb.set_defaults(verb=experiments.evaluate_unmerged)

    verb = verbs.add_parser("fig1", help="draw a layer under LoRA and under Dual LoRA, from the modules")
    verb.add_argument("--profile", default="laptop", help="whose model and ranks")
    verb.set_defaults(verb=pages.draw_fig1)

    verb = verbs.add_parser("params", help="count every parameter count that the paper prints")
    verb.set_defaults(verb=pages.show_parameters)

    verb = verbs.add_parser("audit", help="what does not add up in the paper, and what it leaves open")
    verb.set_defaults(verb=pages.show_audit)

    verb = verbs.add_parser("claims", help="test the paper's claims on the finished runs of a profile")
    verb.add_argument("--profile", default="laptop", help="whose runs: smoke, laptop (default), ...")
    verb.add_argument("--paper", action="store_true", help="test them on the paper's own tables instead")
    verb.set_defaults(verb=pages.show_claims)

    verb = verbs.add_parser("report", help="one HTML page about everything that a profile has finished")
    verb.add_argument("--profile", default="laptop", help="whose runs: smoke, laptop (default), ...")
    verb.set_defaults(verb=pages.write_report)

    verb = verbs.add_parser(
        "reference",
        help="write results/README.md, its tables and figures, from the committed runs",
    )
    verb.add_argument(
        "--profile",
        type=lambda text: text.split(","),
        default=["overnight", "laptop"],
        metavar="PROFILES",
        help="whose runs, the largest scale first (default: overnight,laptop)",
    )
    verb.add_argument(
        "--add",
        metavar="FOLDER",
        type=Path,
        help="first copy the finished runs of a results folder, for instance results",
    )
    verb.set_defaults(verb=pages.write_reference)

    verb = verbs.add_parser(
        "merge", help="write a base model with an adapter in its weights, as an ordinary checkpoint"
    )
    verb.add_argument("adapter", metavar="ADAPTER", type=Path, help="the folder of a saved adapter")
    verb.add_argument("out", metavar="OUT", type=Path, help="the folder to write, which must not exist")
    verb.add_argument("--base", help="folder or hub name of the base model, if not the one the adapter names")
    verb.set_defaults(verb=adapters.merge_adapter, reads_experiments=False)

    verb = verbs.add_parser(
        "register",
        help="let every program of this environment load the adapters: a .pth file registers them with peft",
    )
    verb.add_argument("--remove", action="store_true", help="remove that file again")
    verb.set_defaults(verb=adapters.register_adapters, reads_experiments=False)

    verb = verbs.add_parser("bench", help="measure speed, as ratios to peft and to the arithmetic floor")
    verb.add_argument("--only", type=_names, help="only these parts, for instance layer,step")
    verb.add_argument("--device", help="cpu or gpu; a GPU is measured if there is one")
    verb.add_argument(
        "--minutes", type=_minutes, help="the time for all of it (default: 10 on a CPU, 5 on a GPU)"
    )
    verb.add_argument("--small", action="store_true", help="tiny shapes, to test the benchmark itself")
    verb.set_defaults(verb=pages.measure_speed)

    verb = verbs.add_parser("readme", help="renew the generated parts of README.md")
    verb.set_defaults(verb=pages.renew_readme)
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,10}", part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a list of seeds; for example, 0,1,2")
    return tuple(map(int, parts))


def _positive(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a number from 1 on")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= 1440:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is no number of minutes above 0, up to 1440")
    return minutes


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))
