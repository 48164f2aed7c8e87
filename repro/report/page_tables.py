"""The tables of the page as HTML, and the same numbers inside the paper's own table."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape as escape_html

from repro.plans.plan import Plan, PlannedRow
from repro.report.formats import MISSING, cell_texts
from repro.report.tables import GAIN, Table, TableGroup, TableRow
from repro.text import one_line


def escape(text: str) -> str:
    """The text for HTML, on one line."""
    return escape_html(one_line(text))


def table_html(table: Table, plan: Plan) -> str:
    """A table whose measured cells are buttons, and name their row by its place in the plan.

    A cell of the paper's has the measured number too, which the script shows on demand.
    """
    headings = ["Method", table.params, *table.columns.values(), "runs"]
    planned = {(row.block, row.id): (place, row) for place, row in enumerate(plan.rows)}
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    lines = [f'<table class="numbers"><thead><tr>{head}</tr></thead>']
    for group in table.groups:
        ours = _ours(table, group, planned)
        told = f"{group.heading}. Ours: {', '.join(dict.fromkeys(o.block for o, _ in ours.values()))}"
        lines.append(
            f'<tbody class="{group.source}"><tr class="group"><th colspan="{len(headings)}">'
            f"<span>{escape(group.heading)}</span>"
            + (f'<span class="ours">{escape(told)}</span>' if ours else "")
            + "</th></tr>"
        )
        for row in group.rows:
            if group.source == "measured":
                place, _ = planned[group.block, row.id]
                lines.append(_measured(table, group, row, place))
            else:
                lines.append(_printed(table, row, ours.get(row.id)))
        lines.append("</tbody>")
    return "\n".join([*lines, "</table>"])


def _measured(table: Table, group: TableGroup, row: TableRow, place: int) -> str:
    texts = cell_texts(table, row)
    cells = [f"<td>{escape(text)}</td>" for text in texts]
    for position, column in enumerate(table.columns, 2):
        if column not in row.values:
            continue
        kind, told = _difference(table, group, column, row)
        cells[position] = (
            f'<td class="{kind}"><button type="button" data-row="{place}" data-column="{escape(column)}" '
            f'title="{escape(told)}">{escape(texts[position])}</button></td>'
        )
    return _line(row, cells)


def _printed(table: Table, row: TableRow, ours: tuple[PlannedRow, TableRow] | None) -> str:
    texts = cell_texts(table, row)
    cells = [f"<td>{escape(text)}</td>" for text in texts]
    for position, column in enumerate(table.columns, 2):
        shown = f"<b>{escape(texts[position])}</b>" if column in row.bold else escape(texts[position])
        if column != GAIN:
            shown += f'<span class="ours">{_own(table, column, row, ours)}</span>'
        cells[position] = f"<td>{shown}</td>"
    return _line(row, cells)


def _own(table: Table, column: str, row: TableRow, ours: tuple[PlannedRow, TableRow] | None) -> str:
    if ours is None or ours[1].values.get(column) is None:
        return MISSING
    position = list(table.columns).index(column) + 2
    return escape(cell_texts(table, ours[1])[position])


def _line(row: TableRow, cells: list[str]) -> str:
    head = f'<th scope="row">{escape(row.label)}</th>'
    return "<tr>" + "".join([head, *cells[1:]]) + "</tr>"


def _ours(
    table: Table, group: TableGroup, planned: Mapping[tuple[str, str], tuple[int, PlannedRow]]
) -> dict[str, tuple[PlannedRow, TableRow]]:
    """Our row for each row of a group of the paper's: of its model, or of the model that stands in for it.

    A stand-in row has the paper's id, or where that ends in a rank, the id without it.
    """
    if group.source != "paper":
        return {}
    measured = [
        (planned[own.block, row.id][1], row)
        for own in table.groups
        if own.source == "measured"
        for row in own.rows
    ]
    blocks = {row.block for row, _ in measured}
    found: dict[str, tuple[PlannedRow, TableRow]] = {}
    for printed in group.rows:
        wanted = [printed.id, printed.id.rpartition("-r")[0]]
        for one in measured:
            stem = one[0].id.rpartition("-r")[0] or one[0].id
            same_model = one[0].block == group.block and one[0].id == printed.id
            stands_in = group.block not in blocks and not one[0].extra
            if same_model or (stands_in and (one[0].id in wanted or stem == wanted[1])):
                found.setdefault(printed.id, one)
    return found


def _difference(table: Table, group: TableGroup, column: str, row: TableRow) -> tuple[str, str]:
    """CSS class and tooltip of a cell, with the difference to the paper's value where there is one."""
    own = row.values[column]
    if own is None:
        return "hole", "no number yet; open for the reason"
    for other in table.groups:
        if other.source == "paper" and other.block == group.block:
            for printed in other.rows:
                paper = printed.values.get(column)
                if paper is not None and printed.id == row.id:
                    distance = own.mean - paper.mean
                    kind = "near" if abs(distance) < 1 else "above" if distance > 0 else "below"
                    return kind, f"{distance:+.1f} from the paper's {paper.mean:g}; open for the runs"
    return "", "open for the runs"
