"""One table, figure or sweep of the paper as data: the schema of `experiments/*.yaml`, and reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from repro.config import ConfigError, Frozen, one_of, parse, read_yaml
from repro.methods.registry import METHODS
from repro.paths import EXPERIMENTS
from repro.plans.grid import check_axes, nested, points
from repro.plans.settings import Settings, deep_merge


class InitRule(Frozen):
    """Which tasks of a row start from the row's run of another task.

    Attributes:
        task: the task whose run is started from. A profile without it starts every task from the base model.
        tasks: those that start there.
        reading: `own`, the run of the row's own method; `merged_lora`, a run of `lora`, merged.
        lora: settings of that method.
    """

    task: str
    tasks: tuple[str, ...]
    reading: Literal["own", "merged_lora"] = "own"
    lora: dict[str, Any] = {}


class Row(Settings):
    """One row: a method and whatever it needs changed.

    Attributes:
        id: the row's name within its block, the same as in the paper's numbers (`results/paper`).
        label: what the table prints, by default the method's own label.
        targets: the modules to adapt, where they are not those of the model's file.
        preset: published settings in the place of the experiment's preset.
        init_from: tasks that start from another task's run.
        vary: axes of a sweep; the row then stands for one row a point of their grid.
        extra: whether the row is this project's own, and the paper's table has none like it.
    """

    id: str
    method: dict[str, Any]
    label: str | None = None
    extra: bool = False
    targets: tuple[str, ...] | None = None
    preset: str | None = None
    init_from: InitRule | None = None
    vary: tuple[dict[str, tuple[Any, ...]], ...] = ()

    @model_validator(mode="after")
    def _is_a_grid(self) -> Row:
        check_axes(self.vary)
        return self

    def points(self) -> list[Row]:
        """This row, or the rows of its grid: ids and labels end in what varies."""
        if not self.vary:
            return [self]
        leading = [next(iter(axis)) for axis in self.vary]
        rows = []
        for point in points(self.vary):
            shown = {key.rsplit(".", 1)[-1]: point[key] for key in leading}
            content = deep_merge([self.model_dump(exclude={"vary"}), nested(point)])
            content["id"] = "-".join([self.id, *map(str, shown.values())])
            method = METHODS.get(self.method.get("name", ""))
            label = self.label or (method.label if method else self.id)
            content["label"] = ", ".join([label, *(f"{key} {value}" for key, value in shown.items())])
            rows.append(parse(content, Row, f"row {self.id}"))
        return rows


class Block(Settings):
    """Rows that share a model."""

    model: str
    rows: tuple[Row, ...] = Field(min_length=1)


class StandIn(Settings):
    """The rows for profiles that put one small model in the place of all blocks."""

    rows: tuple[Row, ...] = Field(min_length=1)


class Sweep(Frozen):
    """How a sweep is drawn: every row that varies is a curve, every other row a horizontal line.

    Attributes:
        x: the spec's dotted key that a point's place on the axis is read from.
        label: of that axis.
    """

    x: str
    label: str


class RankAnalysis(Frozen):
    """An analysis of the update's rank, in every row's finished runs and in random matrices.

    Attributes:
        random_size, random_rank: of a square update of Gaussian factors, r1 = r2.
    """

    random_size: int = Field(gt=1)
    random_rank: int = Field(gt=0)


class Experiment(Frozen):
    """One table or sweep of the paper.

    Attributes:
        sweep: how its figure is drawn, where it is a sweep.
        ranks: where the ranks of its runs' updates are what it is about.
        preset: published settings that hold for every row which names no other; profiles that put another
            model in the place of the paper's leave them out.
        params: unit of the table's column of trained parameters.
        axes: patterns of dotted spec keys in which the rows of a block may differ, for instance `method.*`.
        footnotes: other such patterns, each with the sentence that the table prints about the difference.
        paper_notes: what a reader must know about the paper's own rows.
    """

    name: str
    title: str
    family: str
    preset: str | None = None
    params: Literal["percent", "millions"] = "percent"
    axes: tuple[str, ...]
    footnotes: dict[str, str] = {}
    paper_notes: tuple[str, ...] = ()
    sweep: Sweep | None = None
    ranks: RankAnalysis | None = None
    defaults: Settings
    blocks: tuple[Block, ...] = Field(min_length=1)
    stand_in: StandIn

    @model_validator(mode="after")
    def _rows_are_told_apart(self) -> Experiment:
        for place, rows in [("stand_in", self.stand_in.rows), *((b.model, b.rows) for b in self.blocks)]:
            ids = [point.id for row in rows for point in row.points()]
            repeated = sorted({i for i in ids if ids.count(i) > 1})
            if repeated:
                raise ValueError(
                    f"{place}: two rows have the id {repeated[0]!r}; ids must differ within a block"
                )
        return self


def list_experiments(experiments: Path = EXPERIMENTS) -> list[str]:
    """Names of all experiments."""
    files = [*experiments.glob("*.yaml"), *experiments.glob("sweeps/*.yaml")]
    return sorted(path.relative_to(experiments).with_suffix("").as_posix() for path in files)


def load_experiment(name: str, experiments: Path = EXPERIMENTS) -> Experiment:
    """Read an experiment. Its `defaults` may name another experiment, whose defaults it then shares.

    Raises:
        ConfigError: there is no such experiment, or its file is wrong.
    """
    if name not in list_experiments(experiments):
        raise ConfigError(one_of("experiment", name, list_experiments(experiments)))
    path = experiments / f"{name}.yaml"
    content = read_yaml(path)
    if isinstance(content, dict) and isinstance(shared := content.get("defaults"), str):
        content = content | {"defaults": load_experiment(shared, experiments).defaults.model_dump()}
    return parse(content, Experiment, str(path))
