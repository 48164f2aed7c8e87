"""The paper's six tables as data, compared with a second transcription, our experiments and counts.

Parameter counts are recomputed from the models' weight shapes by formulas of this file's own, so that a slip
made in copying shows. Where the paper itself is off, the row is listed below as data.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from math import ceil

import pytest

from repro.analysis.audit import TABLES
from repro.analysis.paper import AVERAGE, PaperRow, paper_rows, published_spreads, source_rows
from repro.paths import PAPER
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile

HEADER = ["block", "row", "label", "params", "column", "value", "bold"]

# Of each table's cells, as somebody else read them: SHA-256 of a line for each cell, in the paper's order,
# `block|label|params|column|value|bold`.
SECOND_READING = {
    "table1": "29294814718473bf7a7c639a567235f274e30df2bd1556e9fc70842c78ba3fc0",
    "table2": "49512df714fbfa92a8aa2944b574d2896aea3bc198ea9e6b16843898711911d6",
    "table3": "645b8adc56683312a2361a6ee770b49ce8ff1c78fb793f3e2fd58205a7e8ea96",
    "table4": "b7c19e1d2386d4adc62c23e9c2a814bfd4ee46e87557d616e7add095b23fd65b",
    "table5": "dc1d6ceacdba0bc969e9cc58a0b99c6c280c97a5fdd88ac79c8b18c6a2c093b2",
    "table6": "fe87573c8fb10b9434d3ce2464aea2c28c0f373149fc322b833ea8517f2cb2b8",
}
# Rows and cells of each table, and its dashes.
SIZES = {
    "table1": (25, 225, 0),
    "table2": (28, 252, 15),
    "table3": (3, 3, 0),
    "table4": (16, 80, 0),
    "table5": (5, 45, 0),
    "table6": (3, 27, 0),
}
ROWS = [row for table in TABLES for row in paper_rows(table)]

Place = tuple[str, str, str]
"""Table, block, row."""

MISPRINTED: dict[Place, str] = {
    ("table1", "llama3-8b", "dora-r16"): "0.36",
    ("table2", "roberta-base", "vera-r1024"): "0.2",
    ("table2", "deberta-v2-xxlarge", "dora-r32"): "9.6",
    ("table3", "llama-7b", "ste"): "0.83",
    ("table3", "llama-7b", "xnor"): "0.83",
    ("table3", "llama-7b", "dorefa"): "0.83",
    ("table4", "gpt2-medium", "fft"): "354.82",
    ("table4", "gpt2-medium", "lora-r4"): "0.39",
    ("table4", "gpt2-medium", "lora-r8"): "0.79",
    ("table4", "gpt2-medium", "lora_plus-r8"): "0.79",
    ("table4", "gpt2-medium", "dora-r8"): "0.84",
    ("table4", "gpt2-medium", "dual_lora-r4"): "0.79",
    ("table4", "gpt2-large", "lora-r4"): "0.74",
    ("table4", "gpt2-large", "lora-r8"): "1.47",
    ("table4", "gpt2-large", "lora_plus-r8"): "1.47",
    ("table4", "gpt2-large", "dora-r8"): "1.57",
    ("table4", "gpt2-large", "dual_lora-r4"): "1.47",
    ("table5", "llama-7b", "setting3-r32"): "0.83",
}
"""Rows whose printed parameters are not those of the count, with what they should be."""

UNCOUNTED = {"galore", "garare", "prefix"}
"""GaLore and GaRare train everything; no whole number of prefix tokens gives the printed figure."""

WHOLE_ENCODERS = {"roberta-base": "125.0", "roberta-large": "355.0", "deberta-v2-xxlarge": "1500.0"}
"""Sizes as the LoRA paper prints them, rounded to round numbers."""

# Width, width of k and v, feed-forward width, layers, all weights of the base model.
LLAMAS = {
    "llama-7b": (4096, 4096, 11008, 32, 6_738_415_616),
    "llama-13b": (5120, 5120, 13824, 40, 13_015_864_320),
    "llama2-7b": (4096, 4096, 11008, 32, 6_738_415_616),
    "llama3-8b": (4096, 1024, 14336, 32, 8_030_261_248),
    "llama3-70b": (8192, 1024, 28672, 80, 70_553_706_496),
}
# Width, feed-forward width, layers.
OTHERS = {
    "roberta-base": (768, 3072, 12),
    "roberta-large": (1024, 4096, 24),
    "deberta-v2-xxlarge": (1536, 6144, 48),
    "gpt2-medium": (1024, 4096, 24),
    "gpt2-large": (1280, 5120, 36),
}
GPT2_TOTALS = {"gpt2-medium": 354_823_168, "gpt2-large": 774_030_080}
ADAPTER_L_BOTTLENECKS = {"gpt2-medium": 224, "gpt2-large": 248}
ADAPTER_P_BOTTLENECK = 256  # its linears have no biases and sit beside up_proj and down_proj

# Parameters added to one d x k weight. A setting of Table 5 has four factors, the third one two.
PER_WEIGHT: dict[str, Callable[[int, int, int], int]] = {
    "lora": lambda d, k, r: r * (d + k),
    "lora_plus": lambda d, k, r: r * (d + k),
    "delta_lora": lambda d, k, r: r * (d + k),
    "hira": lambda d, k, r: r * (d + k),
    "corda": lambda d, k, r: r * (d + k),
    "dora": lambda d, k, r: r * (d + k) + d,
    "dual_lora": lambda d, k, r: 2 * r * (d + k),
    "setting1": lambda d, k, r: 2 * r * (d + k),
    "setting2": lambda d, k, r: 2 * r * (d + k),
    "setting3": lambda d, k, r: r * (d + k),
    "vera": lambda d, k, r: r + d,
    "randlora": lambda d, k, r: ceil(min(d, k) / r) * (r + min(d, k)),
}
SIX_LINEARS = {"corda", "vera", "randlora"}
"""On GLUE these adapt all six linear layers of a block; the others adapt query and value."""


def place(row: PaperRow) -> Place:
    return row.table, row.block, row.row


def name_of(row: PaperRow) -> str:
    return "-".join(place(row))


def trained(row: PaperRow) -> int:
    """Trained parameters without a classifier's head."""
    method, _, rank = row.row.partition("-r")
    if row.table == "table3":
        method, rank = "dual_lora", "16"
    if row.block in LLAMAS:
        hidden, kv, feed_forward, layers, _ = LLAMAS[row.block]
        wide = [(feed_forward, hidden), (hidden, feed_forward)]
        if method == "adapter_p":
            return layers * sum(ADAPTER_P_BOTTLENECK * (d + k) for d, k in wide)
        shapes = [(hidden, hidden), (kv, hidden), (kv, hidden), *wide]
        return layers * sum(PER_WEIGHT[method](d, k, int(rank)) for d, k in shapes)
    hidden, feed_forward, layers = OTHERS[row.block]
    if method == "fft":
        return GPT2_TOTALS[row.block]
    if method == "adapter_l":
        width = ADAPTER_L_BOTTLENECKS[row.block]
        return layers * (2 * hidden * width + width + hidden + 2 * hidden)
    shapes = [(hidden, hidden)] * 2
    if method in SIX_LINEARS:
        shapes = [(hidden, hidden)] * 4 + [(feed_forward, hidden), (hidden, feed_forward)]
    return layers * sum(PER_WEIGHT[method](d, k, int(rank)) for d, k in shapes)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_what_somebody_else_read_in_the_paper(table: str) -> None:
    with (PAPER / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        cells = list(reader)
    assert reader.fieldnames == HEADER
    fields = ("block", "label", "params", "column", "value", "bold")
    text = "".join("|".join(cell[field] for field in fields) + "\n" for cell in cells)
    assert hashlib.sha256(text.encode()).hexdigest() == SECOND_READING[table]


@pytest.mark.parametrize("table", TABLES)
def test_nothing_is_missing_but_what_the_paper_leaves_out(table: str) -> None:
    rows = paper_rows(table)
    values = [value for row in rows for value in row.values.values()]
    assert (len(rows), len(values), values.count("")) == SIZES[table]
    assert all(list(row.values) == list(rows[0].values) for row in rows)
    assert {row.row.partition("-")[0] for row in rows if "" in row.values.values()} <= SIX_LINEARS


@pytest.mark.parametrize("table", TABLES)
def test_the_paper_profile_has_the_papers_rows_in_its_order_and_others_behind_them(table: str) -> None:
    planned = expand(load_experiment(table), load_profile("paper"))
    for block in dict.fromkeys(row.block for row in planned.rows):
        rows = [row for row in planned.rows if row.block == block]
        printed = [row.row for row in paper_rows(table) if row.block == block]
        assert [row.id for row in rows if not row.extra] == printed
        assert [row.extra for row in rows] == sorted(row.extra for row in rows)
    assert list(dict.fromkeys(row.block for row in planned.rows)) == list(
        dict.fromkeys(row.block for row in paper_rows(table))
    )


def test_figure_2_stands_on_table_1() -> None:
    """Its lines and the middle of its curve are rows of Table 1; r1 + r2 = 32 in 15 ratios."""
    table1 = {(row.block, row.label): row.values[AVERAGE] for row in paper_rows("table1")}
    printed = paper_rows("fig2")
    assert [row.values for row in printed] == [{AVERAGE: table1[row.block, row.label]} for row in printed]
    planned = {
        (row.block, row.id): row for row in expand(load_experiment("fig2"), load_profile("paper")).rows
    }
    assert {(row.block, row.row) for row in printed} <= planned.keys()
    assert {block for block, _ in planned} == {"llama3-8b"}
    curve = [row.specs[0].method for row in planned.values() if row.curve == "dual_lora"]
    ranks = [(method.magnitude_rank, method.direction_rank) for method in curve]  # type: ignore[attr-defined]
    assert ranks == [(r1, 32 - r1) for r1 in range(2, 31, 2)]


def test_figure_3_is_on_llama2() -> None:
    assert {row.block for row in expand(load_experiment("fig3"), load_profile("paper")).rows} == {"llama2-7b"}


COUNTED = [
    row
    for row in ROWS
    if row.params
    and row.row.partition("-")[0] not in UNCOUNTED
    and (row.row != "fft" or row.block in GPT2_TOTALS)
]


@pytest.mark.parametrize("row", COUNTED, ids=name_of)
def test_parameters_are_those_of_the_count(row: PaperRow) -> None:
    printed = Decimal(row.params)
    count = Decimal(trained(row))
    exact = 100 * count / (LLAMAS[row.block][-1] + count) if row.block in LLAMAS else count / 10**6
    counted = exact.quantize(printed, rounding=ROUND_HALF_UP)
    expected = Decimal(MISPRINTED.get(place(row), row.params))
    assert counted == expected
    assert (counted != printed) == (place(row) in MISPRINTED)


def test_whole_encoders_have_the_size_that_the_source_prints() -> None:
    assert {r.block: r.params for r in ROWS if r.row == "fft" and r.table == "table2"} == WHOLE_ENCODERS


def test_every_source_is_of_a_row_and_a_column_of_the_paper_and_stands_once() -> None:
    printed = {place(row): row for row in ROWS}
    found = list(source_rows())
    assert len(found) == 40
    for source in found:
        row = printed[source.table, source.block, source.row]
        assert source.values.keys() <= row.values.keys()
        assert all(Decimal(value) > 0 for value in source.values.values())
    counts = Counter((s.table, s.block, s.row, s.source) for s in found)
    assert max(counts.values()) == 1
    named = (PAPER / "README.md").read_text(encoding="utf-8")
    assert all(f"| {source.source} |" in named for source in found)


def test_spreads_are_those_that_the_lora_paper_prints() -> None:
    """Its Tables 2 and 3: LoRA on three encoders and on two sizes of GPT-2."""
    spreads = published_spreads()
    assert {place: len(columns) for place, columns in spreads.items()} == {
        ("table2", "roberta-base"): 8,
        ("table2", "roberta-large"): 8,
        ("table2", "deberta-v2-xxlarge"): 8,
        ("table4", "gpt2-medium"): 5,
        ("table4", "gpt2-large"): 5,
    }
    assert spreads["table2", "roberta-base"]["cola"] == 1.2
    assert spreads["table2", "roberta-large"]["rte"] == 2.5
