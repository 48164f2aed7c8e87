"""A run's log at Weights & Biases, which never fails or delays the run itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger

from repro.plans.spec import RunSpec

# Seconds that a finished run waits for what W&B has not sent yet.
_PATIENCE = 60

_SHOWN_CHARACTERS = 200

Call = Callable[[WandbLogger], None]


class WandbLog(Logger):
    """Passes everything on to Lightning's logger, in a thread of its own: a server that hangs stops no step.

    The first error ends the logging.

    Attributes:
        problem: what went wrong, in a line; empty if nothing did.
    """

    def __init__(self, start: Callable[[], WandbLogger]) -> None:
        """`start` makes the logger, in the thread."""
        super().__init__()
        self.problem = ""
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._thread = Thread(target=self._work, args=(start,), daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._calls.put(lambda logger: logger.log_metrics(metrics, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._calls.put(lambda logger: logger.log_hyperparams(params))

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Set the W&B run's final values."""
        self._calls.put(lambda logger: logger.experiment.summary.update(values))

    def close(self, *, failed: bool) -> None:
        """End the W&B run, after what was logged, and wait for it."""
        self._calls.put(lambda logger: logger.experiment.finish(exit_code=int(failed)))
        self._calls.put(None)
        self._thread.join(_PATIENCE)
        if self._thread.is_alive() and not self.problem:
            self.problem = f"it did not end within {_PATIENCE} s"

    def _work(self, start: Callable[[], WandbLogger]) -> None:
        try:
            logger = start()
            while (call := self._calls.get()) is not None:
                call(logger)
        except (Exception, SystemExit) as error:  # whatever it is, the run does not depend on it
            said = " ".join(f"{type(error).__name__}: {error}".split())
            self.problem = said[:_SHOWN_CHARACTERS]


@contextmanager
def wandb_log(spec: RunSpec, folder: Path, group: str) -> Iterator[WandbLog]:
    """A log of a run, offline unless `WANDB_MODE` says otherwise.

    An error inside closes the W&B run as failed.
    """

    def start() -> WandbLogger:
        import wandb

        run = wandb.init(
            project="dual-lora-repro",
            group=group,
            name=spec.slug,
            # The run's own hash, so that a resumed run continues its W&B run and starts no second one.
            id=spec.hash,
            resume="allow",
            dir=folder,
            config=spec.model_dump(mode="json"),
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                init_timeout=_PATIENCE,
                finish_timeout=_PATIENCE,
            ),
        )
        return WandbLogger(experiment=run)

    log = WandbLog(start)
    try:
        yield log
    except BaseException:
        log.close(failed=True)
        raise
    log.close(failed=False)
