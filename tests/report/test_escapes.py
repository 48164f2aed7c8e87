"""Hostile labels, titles and warnings, in every format and in the figures."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pandas as pd
import pytest

from repro.analysis.statistics import Estimate
from repro.report.escapes import csv_text, figure_text, latex_text, markdown_text
from repro.report.figures import draw_table
from repro.report.formats import grid, markdown_table, to_csv, to_latex, to_markdown
from repro.report.output import _write_frame
from repro.report.tables import Table, TableGroup, TableRow
from repro.text import one_line

HOSTILE = [
    "a|b",
    "a\\|b",
    "a\\",
    "two\nlines | of | cells",
    "\r\n% \\input{/etc/passwd}",
    "<script>alert(1)</script>",
    "\\<img src=x onerror=alert(1)>",
    "&lt;b&gt; &#60;",
    "`code",
    "[here](javascript:alert(1)) ![x](http://example.org/x.png)",
    "=cmd|' /C calc'!A0",
    "  @SUM(1)",
    "\t=1+1",
    "+1+cmd",
    "-",
    "-1.5",
    "$x^2$ $ \\$",
    "$\\frac{$",
    "100 % & #1 ~ _a_ ^ {x} }{",
    "\x1b[31mred\x1b[0m \x07 \x00",
    "[bold]x[/] [/]",
    "\ud800 half",
    "a\u2028b\u202ec",
    "",
    "x" * 3000,
]


def table(text: str) -> Table:
    row = TableRow(
        id=text or "id",
        label=text,
        params=text,
        values={"boolq": Estimate(61.0, 4.0, 2), "avg": Estimate(55.5, None, 1)},
        runs=(1, 1),
        collapsed=frozenset({"boolq"}),
    )
    printed = TableRow(
        id="p", label=text, params="", values={"avg": Estimate(1.0, None, 1)}, printed={"avg": "1.0"},
        bold=frozenset({"avg"}),
    )  # fmt: skip
    groups = (
        TableGroup(text, "measured", text or "block", (row,)),
        TableGroup("Paper", "paper", "b", (printed,)),
    )
    columns = {"boolq": text, "avg": "Avg."}
    return Table("t", text, "smoke", columns, text, {}, groups, (text,), text, (text,))


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_keeps_its_cells_and_takes_in_no_html(text: str) -> None:
    written = to_markdown(table(text))
    own = [line for line in written.splitlines() if line.startswith("|")]
    assert own == grid(table(text)) and len(own) == 6
    # As GitHub splits a line: a backslash takes the next character out of consideration.
    assert {len(re.sub(r"\\.", "", line).split("|")) for line in own} == {7}
    assert not re.search(r"<[A-Za-z/!?]", written)
    assert not re.search(r"(?<!\\)\]\(", written)
    assert all(character.isprintable() for line in written.split("\n") for character in line)
    lines = markdown_table([text, "b"], [[text, text]])
    assert len({len(re.sub(r"\\.", "", line).split("|")) for line in lines[1:]}) == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_has_only_its_own_commands(text: str) -> None:
    before, _, tabular = to_latex(table(text)).partition(r"\begin{tabular}")
    assert all(line.startswith("%") for line in before.splitlines())
    own = (
        r"\\(toprule|midrule|bottomrule|multicolumn|textit|textbf|pm|dagger|end|textbackslash\{\}|textbar\{\}|"
        r"textless\{\}|textgreater\{\}|textasciitilde\{\}|textasciicircum\{\}|[{}$&%_#\\])"
    )
    lines = tabular.splitlines()[1:]
    rest = [re.sub(own, "", line) for line in lines]
    assert not any("\\" in line for line in rest)
    assert not any(re.search(r"[%#~^]", line) for line in rest)
    bare = [re.sub(r"\\\\|\\[{}$&%_#]", "", line) for line in lines]
    assert all(line.count("{") == line.count("}") for line in bare)
    assert {line.count("&") for line in bare if "&" in line} == {4}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_spreadsheet_computes_nothing_and_what_is_read_back_is_the_text(text: str) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(table(text)))))
    assert len(rows) == 4
    for cell in (cell for row in rows for cell in row.values()):
        assert not re.match(r"\s*[=+@-]", cell) or re.fullmatch(r"-?[\d.]+", cell)
    if text:
        assert rows[0]["row"].removeprefix("'") == one_line(text)


def test_frames_are_defused_as_well(tmp_path: Path) -> None:
    frame = pd.DataFrame({"row": ["=1", "LoRA"], "value": [-1.5, 2.0]})
    assert _write_frame(tmp_path / "f.csv", frame).read_text() == "row,value\n'=1,-1.5\nLoRA,2\n"


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("text", HOSTILE)
def test_figures_with_hostile_labels_are_drawn(text: str, tmp_path: Path) -> None:
    png, svg = draw_table(table(text), tmp_path)
    assert png.stat().st_size > 1000 and svg.stat().st_size > 1000


def test_characters_one_by_one() -> None:
    assert markdown_text("a|`<b> & &amp; [1, 2]") == r"a\|\`&lt;b> & &amp;amp; [1, 2]"
    assert latex_text(r"\{}$~^_%&#|") == (
        r"\textbackslash{}\{\}\$\textasciitilde{}\textasciicircum{}\_\%\&\#\textbar{}"
    )
    assert latex_text("1 ± 2 †") == r"1 $\pm$ 2 $\dagger$"
    assert [csv_text(cell) for cell in ("-1", "+1e-5", "-.5")] == ["-1", "+1e-5", "-.5"]
    assert [csv_text(cell) for cell in ("-1a", "=1", "\t-")] == ["'-1a", "'=1", "' -"]
    assert figure_text("$5 and $6") == r"\$5 and \$6"
    assert len(figure_text("x" * 100)) == 80
    assert one_line("a\tb\x1b[1m\ud800") == "a b\ufffd[1m\ufffd"
