"""Recount of the paper's "Trainable Param." columns, on models without weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from repro.analysis.paper import paper_rows
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.plans.spec import RunSpec

TABLES = ("table1", "table2", "table3", "table4", "table5")
"""The tables of the paper that have this column."""


@dataclass(frozen=True)
class ParameterEntry:
    """One entry of the column.

    Attributes:
        row: the row's id in `experiments/`.
        label: the row's label in the paper.
        printed: the printed value, in `unit`.
        count: trained parameters without classification heads.
        built: `built` if the adapter was attached on the meta device, `formula` if attaching it needs data.
        recomputed: the count in the paper's unit, rounded to its decimals.
    """

    table: str
    block: str
    row: str
    label: str
    printed: str
    unit: str
    count: int
    built: str
    recomputed: str

    @property
    def agrees(self) -> bool:
        return Decimal(self.printed) == Decimal(self.recomputed)


def parameter_entries(build: bool = True) -> Iterator[ParameterEntry]:
    """Every entry of the paper's columns, in its order.

    Args:
        build: attach every adapter to its model on the meta device, where 70 billion weights need no memory,
            and check the formula against it. Otherwise use the formula only.
    """
    for table in TABLES:
        planned = expand(load_experiment(table), load_profile("paper"), [0])
        rows = {(row.block, row.id): row for row in planned.rows}
        for printed in paper_rows(table):
            row = rows[printed.block, printed.row]
            spec = row.specs[0]
            by_building = build and not spec.method.calibration_examples and spec.method.trains
            count = _built(spec) if by_building else row.trainable_parameters
            if count != row.trainable_parameters:
                raise AssertionError(
                    f"{table}, {row.block}, {row.id}: the formula gives {row.trainable_parameters:,} trained "
                    f"parameters, the built model has {count:,}"
                )
            percent = planned.experiment.params == "percent"
            yield ParameterEntry(
                table=table,
                block=printed.block,
                row=printed.row,
                label=printed.label,
                printed=printed.params,
                unit="%" if percent else "M",
                count=count,
                built="built" if by_building else "formula",
                recomputed=_like(printed.params, row.trainable_percent if percent else count / 1e6),
            )


def _built(spec: RunSpec) -> int:
    """Trained parameters of the model that the spec's method builds."""
    import torch

    from repro.models.loading import meta_model
    from repro.models.shapes import base_parameters, linear_shapes

    task, architecture, targets = spec.benchmark.model_task, spec.model.architecture, spec.adapted_modules
    base = meta_model(spec.model, task)
    with torch.device("meta"):
        model = spec.method.attach(base, targets, task)
    report = spec.method.verify(
        model, targets, linear_shapes(architecture, targets), base_parameters(architecture)
    )
    return report.trainable_parameters


def _like(printed: str, value: float) -> str:
    """The value, rounded to the decimals of the printed one."""
    step = Decimal(1).scaleb(Decimal(printed).as_tuple().exponent)  # type: ignore[arg-type]
    return str(Decimal(repr(value)).quantize(step, ROUND_HALF_UP))
