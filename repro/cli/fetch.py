"""The verb that fills the hub's cache before runs start, on a machine that has a network."""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from repro.cli.shared import tell
from repro.config import ConfigError, one_of

if TYPE_CHECKING:
    from repro.hub import Repository
    from repro.plans.spec import RunSpec
    from repro.runs.fetching import Listing


def fetch(options: argparse.Namespace) -> int:
    """`fetch`: sizes first, then models and data sets of the experiments, then what is missing and why."""
    from repro import hub
    from repro.runs.fetching import download, free_bytes, listing, wanted

    repositories = wanted(_specs(options))
    if not repositories:
        print(f"profile {options.profile}: its models and data need no hub")
        return 0
    if (reason := hub.offline()) is not None:
        raise ConfigError(f"{reason}; run `repro fetch` on a machine that has a network")
    found: dict[Repository, Listing] = {}
    problems: dict[Repository, str] = {}
    for needed in repositories:
        try:
            found[needed] = listing(needed)
        except Exception as error:  # of many unrelated classes; one repository never stops the others
            problems[needed] = hub.how_to_get(needed, error)
    _print_sizes(repositories, found)
    absent = sum(each.absent_bytes for each in found.values())
    cache, free = free_bytes()
    print(f"to download: {_size(absent)}; free in {cache}: {_size(free)}")
    if absent > free:
        return tell(
            [f"{_size(absent - free)} too little; set HF_HOME to a larger disk, or take fewer --models"]
        )
    for needed, each in found.items() if not options.dry_run else ():
        try:
            damaged = download(each, lambda line: print(line, file=sys.stderr))
        except Exception as error:
            problems[needed] = hub.how_to_get(needed, error)
            continue
        if damaged:
            problems[needed] = f"damaged twice: {', '.join(damaged)}; run the same command again"
        if needed.revision != each.commit:
            print(f"{needed.id}: {needed.revision or 'main'} is the commit {each.commit}")
    if not options.dry_run:
        there = [needed for needed in repositories if needed not in problems]
        print(f"there, and checked: {len(there)} of {len(repositories)}")
    return tell(f"missing: {repositories[needed]}, {needed.id}: {why}" for needed, why in problems.items())


def _specs(options: argparse.Namespace) -> list[RunSpec]:
    """The runs of all experiments, or those with the models that are asked for."""
    from repro.plans.experiment import load_experiment
    from repro.plans.plan import expand
    from repro.plans.profile import load_profile

    profile = load_profile(options.profile)
    plans = [expand(load_experiment(name), profile) for name in options.experiments]
    specs = [spec for plan in plans for spec in plan.runs.values()]
    models = {spec.model.name for spec in specs}
    patterns = options.models or ("*",)
    for pattern in patterns:
        if not any(fnmatchcase(model, pattern) for model in models):
            raise ConfigError(one_of("model", pattern, models))
    return [
        spec
        for spec in specs
        if any(fnmatchcase(spec.model.name, pattern) for pattern in patterns)
        and not (options.ungated and spec.model.gated)
    ]


def _print_sizes(repositories: dict[Repository, str], found: dict[Repository, Listing]) -> None:
    rows = [("", "repository", "revision", "files", "size", "cached")]
    for needed, name in repositories.items():
        revision = (needed.revision or "main")[:20]
        if (each := found.get(needed)) is None:
            rows.append((name, needed.id, revision, "?", "?", "?"))
            continue
        cached = _size(each.bytes - each.absent_bytes)
        rows.append((name, needed.id, revision, str(len(each.files)), _size(each.bytes), cached))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        left = (text.ljust(width) for text, width in zip(row[:3], widths[:3], strict=True))
        right = (text.rjust(width) for text, width in zip(row[3:], widths[3:], strict=True))
        print("  ".join((*left, *right)).rstrip())


def _size(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 / 100 else f"{count / 2**20:,.2f} MiB"
