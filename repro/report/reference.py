"""The generated parts of `results/README.md`, the page of the committed results, and the pages they link.

Sentences with numbers are generated from the data, so that they cannot become outdated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from repro.analysis.audit import audit_items
from repro.analysis.claims import score_claims
from repro.analysis.claims_on_paper import claims_on_paper
from repro.analysis.damaged_files import usable
from repro.analysis.finished import runs_by_column
from repro.analysis.ledger import Claim, load_ledger
from repro.analysis.measures import Measure
from repro.analysis.merging import merging_costs
from repro.analysis.norms import NormPoint, norm_points
from repro.analysis.paired import paired_difference
from repro.analysis.paper import AVERAGE
from repro.analysis.peaks import peaks
from repro.analysis.statistics import Estimate
from repro.plans.experiment import Sweep
from repro.plans.plan import Plan
from repro.plans.profile import Profile
from repro.plans.spec import RunSpec, flatten
from repro.report.claims import claims_page
from repro.report.escapes import markdown_text
from repro.report.formats import grid, markdown_table, to_markdown
from repro.report.merging import MERGING_NOTE, merging_lines, merging_page
from repro.report.norms import norm_lines
from repro.report.peaks import peak_lines, peak_table
from repro.report.power import power_lines
from repro.report.readme import Parts, with_generated_parts
from repro.report.speed import speed_table
from repro.report.standing import on_paper, standing
from repro.report.summary import summary
from repro.report.tables import PROBABILITY, Table, build_table
from repro.runs.known_curvature import Curvature, known_curvature
from repro.runs.measurements import speed_file, usable_speeds
from repro.runs.reference import largest, stands
from repro.runs.store import Store

_NOT_APART = "neither above nor below any other row"


class ReferencePage:
    """The committed runs as text: every experiment at the largest scale that has them.

    Args:
        profiles: the scales, the largest first.
    """

    def __init__(self, profiles: Sequence[Profile], store: Store) -> None:
        scales = [stands(profile, store) for profile in profiles]
        self.profiles = profiles
        self.scales = scales
        self.finished = [stand for scale in scales for stand in scale.values() if stand.presentable]
        self.stands = largest(scales)
        self.plans = {name: stand.plan for name, stand in self.stands.items()}
        self.ledger = load_ledger()
        self.scored = score_claims(self.ledger, self.plans, store)
        self.store = store
        self.folder = store.folder.parent
        self.speeds = usable_speeds(self.folder)

    def pages(self) -> dict[str, str]:
        """The linked pages by their path below `tables`: full tables, and the claims."""
        found = {_path(stand.plan): to_markdown(build_table(*stand)) for stand in self.finished}
        for stand in self.finished:
            costs = merging_costs(*stand, self.store)
            if costs:
                found[_path(stand.plan, "-merging")] = merging_page(stand.plan, costs)
        return found | {"claims.md": claims_page(self.ledger, self.scored, self.profiles)}

    def scales_of(self, claim: Claim) -> list[str]:
        """Names of the profiles whose runs a claim is tested on."""
        return list(dict.fromkeys(self.plans[name].profile.name for name in claim.experiments))

    def parts(self) -> Parts:
        """The generated parts of the page."""
        return {
            "summary": partial(summary, self.scored, self.scales_of),
            "standing": partial(standing, self.scored, self.scales_of),
            "on_paper": partial(on_paper, claims_on_paper(self.ledger)),
            "readings": _readings,
            "runs": self._runs,
            "speed": self._speed,
            "power": self._power,
            "norm": self._norm,
            "merging": self._merging,
            **{name: partial(self._measured, name) for name in self.plans},
        }

    def _measured(self, name: str) -> list[str]:
        """A table's measured rows with a finished run, and links to the full table at every scale."""
        stand = self.stands[name]
        if stand not in self.finished:
            return ["No runs are committed yet."]
        table, profile = build_table(*stand), stand.plan.profile.name
        scale, figure = f"Profile `{profile}`.", f"![{table.title}](reference/figures/{profile}/{name}.png)"
        if stand.plan.experiment.sweep:
            note = f"All tasks and settings: {self._links(name)}."
            return [scale, "", figure, "", *self._points(name, table), "", *self._peaks(name, table), note]
        groups = tuple(
            replace(group, rows=tuple(row for row in group.rows if row.runs and row.runs[0]))
            for group in table.groups
            if group.source == "measured"
        )
        rows = sum(len(group.rows) for group in table.groups if group.source == "measured")
        shown = sum(len(group.rows) for group in groups)
        lacking = f" {rows - shown} of {rows} rows have no committed run." if shown < rows else ""
        note = f"Full table with the paper's numbers, settings and notes: {self._links(name)}.{lacking}"
        return [
            scale,
            "",
            *grid(replace(table, groups=groups)),
            "",
            *self._place(name, table),
            note,
            "",
            figure,
        ]

    def _links(self, name: str) -> str:
        """Links to an experiment's pages: that of the scale shown here, then the others."""
        own = self.plans[name]
        others = [s.plan for s in self.finished if s.plan.experiment.name == name and s.plan is not own]
        links = [f"[{name}](reference/tables/{_path(own)})"]
        links += [f"[at the scale `{o.profile.name}`](reference/tables/{_path(o)})" for o in others]
        return ", ".join(links)

    def _points(self, name: str, table: Table) -> list[str]:
        """The averages of a sweep and, where its runs have them, the probabilities: one line per curve."""
        sweep = self.plans[name].experiment.sweep
        assert sweep is not None
        averages = self._curves(name, table, sweep.column or AVERAGE)
        probabilities = self._curves(name, table, PROBABILITY)
        label = markdown_text(sweep.label)
        head = [
            "",
            f"{_swept(sweep, table)} at {label}",
            *([f"Prob. at {label}"] if probabilities else []),
            "seeds",
        ]
        rows = [
            [
                markdown_text(curve),
                _highest_in_bold(points),
                *([_highest_in_bold(probabilities.get(curve, {}))] if probabilities else []),
                str(min(estimate.runs for estimate in points.values())),
            ]
            for curve, points in averages.items()
        ]
        shown = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
        widths = [e.half_width for points in averages.values() for e in points.values() if e.half_width]
        if widths:
            shown += ["", f"95 % intervals of these scores: at most ± {max(widths):.1f}."]
        return shown

    def _curves(self, name: str, table: Table, column: str) -> dict[str, dict[str, Estimate]]:
        """What a sweep found in a column: by the label of a curve, then by the value that varies."""
        sweep = self.plans[name].experiment.sweep
        assert sweep is not None
        rows = {row.id: row for group in table.groups if group.source == "measured" for row in group.rows}
        curves: dict[str, dict[str, Estimate]] = {}
        for row in self.plans[name].rows:
            estimate = rows[row.id].values.get(column)
            if estimate is not None:
                # A point's label ends in a comma and the value that varies.
                curve = row.label.rpartition(",")[0] if row.curve else row.label
                place = flatten(row.specs[0].model_dump(mode="json"))[sweep.x] if row.curve else ""
                curves.setdefault(curve, {})[f"{place:g}" if row.curve else ""] = estimate
        return curves

    def _peaks(self, name: str, table: Table) -> list[str]:
        """Where a sweep's curves are highest, and how far apart they are there."""

        def curvature(spec: RunSpec) -> Curvature | None:
            return usable(partial(known_curvature, spec, self.folder))

        sweep = self.plans[name].experiment.sweep
        assert sweep is not None
        lines = peak_lines(peak_table(peaks(*self.stands[name]), curvature), _swept(sweep, table))
        return [*lines, ""] if lines else []

    def _place(self, name: str, table: Table) -> list[str]:
        """Dual LoRA's rank by average; nothing without a Dual LoRA row or an average."""
        rows = {row.id: row for group in table.groups if group.source == "measured" for row in group.rows}
        averages = {
            row.label: estimate.mean
            for row in rows.values()
            if (estimate := row.values.get(AVERAGE)) is not None
        }
        planned = {row.id: row for row in self.plans[name].rows}
        if "dual_lora" not in planned or rows["dual_lora"].label not in averages or len(averages) < 3:
            return []
        label = rows["dual_lora"].label
        order = sorted(averages, key=lambda name: -averages[name])
        place = order.index(label) + 1
        first = f"; {order[0]} is first ({averages[order[0]]:.1f})" if place > 1 else ""
        by_score, by_probability = self._apart(name, "score"), self._apart(name, "probability")
        sharper = (
            f" By the probability of the gold answers, it is {by_probability}." if by_probability else ""
        )
        return [
            f"By average, {label} ({averages[label]:.1f}) is number {place} of {len(order)}{first}. "
            f"Paired over items and seeds, it is {by_score or _NOT_APART} by more than the 95 % interval of "
            f"the difference, without correction for multiple comparisons.{sharper}",
            "",
        ]

    def _apart(self, name: str, measure: Measure) -> str | None:
        """The rows that Dual LoRA's is above and below by a measure; None where none can be compared."""
        results = {state.spec.hash: state.result for state in self.stands[name].states}
        planned = {row.id: row for row in self.plans[name].rows}
        own = planned.pop("dual_lora")
        gold = type(own.specs[0].benchmark).gold_columns()
        columns = [column for column in own.columns if measure == "score" or column in gold]
        found = {
            row.label: difference
            for row in planned.values()
            if (
                difference := paired_difference(
                    runs_by_column(own, results), runs_by_column(row, results), columns, measure
                )
            )
        }
        clear = {
            label: d.mean
            for label, d in found.items()
            if d.half_width is not None and abs(d.mean) > d.half_width
        }
        sides = {
            "above": [label for label, mean in clear.items() if mean > 0],
            "below": [label for label, mean in clear.items() if mean < 0],
        }
        told = " and ".join(f"{side} {', '.join(labels)}" for side, labels in sides.items() if labels)
        return (told or _NOT_APART) if found else None

    def _speed(self) -> list[str]:
        """The bench of a GPU, or else that with the most rounds, and links to those of other devices."""
        if not self.speeds:
            return ["Not measured yet."]
        first, *others = self.speeds
        links = [f"[{one.hardware}](reference/bench/{speed_file(Path(), one).stem}.md)" for one in others]
        return [
            *speed_table(first).splitlines(),
            *(["", f"Also measured on {', '.join(links)}."] if links else []),
        ]

    @cached_property
    def norms(self) -> list[NormPoint]:
        """The gain of every row at Table 1's scale against the size of its update."""
        scale = self.plans["table1"].profile.name
        own = {name: stand for name, stand in self.stands.items() if stand.plan.profile.name == scale}
        states = {name: stand.states for name, stand in own.items()}
        return norm_points({name: stand.plan for name, stand in own.items()}, states, self.store)

    def _norm(self) -> list[str]:
        return [*self._drawn("norm", "Gain against the size of the update"), *norm_lines(self.norms)]

    def _merging(self) -> list[str]:
        """What merging costs in each experiment; a row of several only in the first of them."""
        lines: list[str] = []
        shown: set[tuple[str, ...]] = set()
        for name in sorted(self.stands, key=lambda name: not name.startswith("table")):
            stand = self.stands[name]
            own = merging_costs(*stand, self.store)
            new = [cost for cost in own if cost.row.hashes not in shown]
            shown.update(cost.row.hashes for cost in own)
            if new:
                scale = f"`{name}`, profile `{stand.plan.profile.name}`:"
                lines += [scale, "", *merging_lines(new), ""]
        return [*lines, MERGING_NOTE] if lines else ["No run has been tested without merging yet."]

    def _power(self) -> list[str]:
        lines = power_lines(*self.stands["table1"])
        return [*self._drawn("power", "Power by gain, seeds and items"), *lines]

    def _drawn(self, name: str, title: str) -> list[str]:
        """A figure about the runs of Table 1, and an empty line."""
        return [f"![{title}](reference/figures/{self.plans['table1'].profile.name}/{name}.png)", ""]

    def _runs(self) -> list[str]:
        rows = []
        for stand in self.finished:
            results = stand.results
            seeds = sorted({int(result.spec["seed"]) for result in results})
            machines = Counter(result.environment.hardware for result in results)
            where = ", ".join(f"{count} on {machine}" for machine, count in machines.items())
            runs = f"{len(results)} of {len(stand.states)}"
            rows.append(
                [stand.plan.experiment.name, stand.plan.profile.name, runs, ", ".join(map(str, seeds)), where]
            )
        every = {result.hash: result for stand in self.finished for result in stand.results}
        versions = Counter(
            ", ".join(f"{name} {version}" for name, version in r.environment.packages.items())
            for r in every.values()
        )
        commits = sorted({(r.environment.commit or "")[:10] for r in every.values()})
        hours = sum(result.total_seconds for result in every.values()) / 3600
        return [
            *markdown_table(["experiment", "profile", "runs", "seeds", "hardware"], rows),
            "",
            f"{len(every)} different runs, since tables share some; {hours:.1f} hours in total. Code: "
            f"{', '.join(map(markdown_text, commits))}. Versions: {'; '.join(map(markdown_text, versions))}.",
        ]


def _swept(sweep: Sweep, table: Table) -> str:
    """The heading of what a sweep's curves show."""
    return "average (%)" if sweep.column is None else table.columns[sweep.column]


def _highest_in_bold(points: Mapping[str, Estimate]) -> str:
    """What was found at each value of a curve, the highest in bold; a row that does not vary has one."""
    best = max(points, key=lambda place: points[place].mean, default="")
    shown = {place: f"{estimate.mean:.1f}" for place, estimate in points.items()}
    if best:
        shown[best] = f"**{shown[best]}**"
    return ", ".join(f"{place}: {mean}" if place else mean for place, mean in shown.items())


def _path(planned: Plan, end: str = "") -> str:
    return f"{planned.profile.name}/{planned.experiment.name}{end}.md"


def _readings() -> list[str]:
    """What the paper leaves open, and the reading used here."""
    rows = [
        [" ".join(text.split()) for text in (item.where, item.found, item.here)]
        for item in audit_items()
        if item.kind == "ambiguity"
    ]
    return markdown_table(["where", "what is missing", "reading used here"], rows)


def _in_docs(part: Callable[[], list[str]]) -> list[str]:
    """A part with its links as seen from the docs folder."""
    return [line.replace("](reference/", "](../results/reference/") for line in part()]


def page_texts(page: ReferencePage, folder: Path) -> dict[Path, str]:
    """The texts that `repro reference` writes, by path, for the results folder `folder`."""
    parts = page.parts()
    in_docs: Parts = {name: partial(_in_docs, part) for name, part in parts.items()}
    texts = {
        path: with_generated_parts(path.read_text(encoding="utf-8"), seen, "/".join(path.parts[-2:]))
        for path, seen in (
            (folder / "README.md", parts),
            (folder.parent / "docs" / "report.md", in_docs),
        )
    }
    tables = folder / "reference" / "tables"
    return texts | {tables / name: content for name, content in page.pages().items()}
