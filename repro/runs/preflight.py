"""What the machine must have before runs start, so that its faults are not failures of runs."""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from repro import hub, variables
from repro.benchmarks.hub_sets import set_repositories
from repro.config import ConfigError
from repro.models.loading import check_available
from repro.plans.execution import Execution
from repro.plans.spec import RunSpec

# W&B's own words; the last two are older ones for offline and online.
_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
_ONLINE = ("online", "shared", "run")

# Seconds that W&B's server has to answer.
_PATIENCE = 10

_WITHOUT = "or set WANDB_MODE=offline, or use --no-wandb"


def check_machine(executions: Iterable[Execution]) -> None:
    """Check the data folder and W&B.

    Raises:
        ConfigError: something is missing; the message says what to do.
    """
    variables.data_folder()
    if any(execution.wandb for execution in executions):
        check_wandb()


def ready(specs: Sequence[RunSpec]) -> tuple[list[RunSpec], list[str]]:
    """The runs whose model and data are here, and of what is not, why and how to get it.

    Nothing large is loaded. Data that the hub has to be asked for are taken to be there if it answers.
    """
    models: dict[str, str] = {}
    data: dict[hub.Repository, str] = {}
    for model in {spec.model.model_dump_json(): spec.model for spec in specs}.values():
        try:
            check_available(model)
        except ConfigError as error:
            models[model.name] = str(error)
    for needed in dict.fromkeys(needed for spec in specs for needed in set_repositories(spec.benchmark)):
        if hub.cached_folder(needed) is None and (reason := hub.offline()) is not None:
            data[needed] = f"data {needed.id}: {hub.how_to_get(needed, f'not in the cache, and {reason}')}"
    there = [
        spec
        for spec in specs
        if spec.model.name not in models and data.keys().isdisjoint(set_repositories(spec.benchmark))
    ]
    return there, [*models.values(), *data.values()]


def check_wandb() -> None:
    """Check that W&B can log in the mode that is set.

    Raises:
        ConfigError: there is no such mode, nobody is logged in, or the server does not answer.
    """
    mode = os.environ.get("WANDB_MODE", "offline")
    if mode not in _MODES:
        raise ConfigError(f"WANDB_MODE is {mode!r}; allowed: {', '.join(_MODES[:3])}")
    if mode not in _ONLINE:
        return
    import wandb

    try:
        server = wandb.setup().settings.base_url
        _check_server(mode, server)
        known = wandb.login(prompt=False)
    except ConfigError:
        raise
    except Exception as error:  # of many kinds: pydantic's, its own
        raise ConfigError(f"WANDB_MODE is {mode!r}, and {_line(error)}; mend it, {_WITHOUT}") from error
    if not known:
        raise ConfigError(
            f"WANDB_MODE is {mode!r}, and nobody is logged in at {server}; run `wandb login`, {_WITHOUT}"
        )


def _check_server(mode: str, server: str) -> None:
    try:
        urllib.request.urlopen(server, timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        if not isinstance(getattr(error, "reason", None), ssl.SSLError):  # certificates are W&B's matter
            raise ConfigError(
                f"WANDB_MODE is {mode!r}, and {server} does not answer ({_line(error)}); check the network, "
                f"{_WITHOUT}"
            ) from error


def _line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False)[0]
        return f"its setting {'.'.join(map(str, problem['loc']))} is not possible: {problem['msg']}"
    return " ".join(str(error).split())[:200]
