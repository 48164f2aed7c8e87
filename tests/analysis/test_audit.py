"""The audit's data, and the parameter columns counted again."""

from __future__ import annotations

from decimal import Decimal

import pytest

from repro.analysis.audit import audit_items, averages, explanation
from repro.analysis.parameters import parameter_entries
from repro.report.audit import audit_page, parameters_page

ENTRIES = list(parameter_entries(build=False))


def test_averages_are_those_that_a_hand_calculation_gives() -> None:
    found = {(a.table, a.block, a.method, a.rank): a for a in averages()}
    galore = found["table2", "roberta-base", "galore", "8"]
    # 87.17 94.38 92.01 61.83 92.25 91.22 79.06 90.80, the eight cells as the sources print them.
    assert (galore.mean, galore.printed, galore.verdict) == (Decimal("86.09"), Decimal("85.9"), "differs")
    adapter = found["table1", "llama-7b", "adapter_p", ""]
    assert (adapter.mean, adapter.verdict) == (Decimal("72.25"), "boundary")
    assert all(abs(a.mean - a.printed) <= Decimal("0.05") for a in found.values() if a.verdict != "differs")


def test_every_entry_of_the_paper_has_a_row_of_ours() -> None:
    """As many as the CSV files have rows: 24, 26, 16 and 5."""
    per_table = {t: sum(e.table == t for e in ENTRIES) for t in ("table1", "table2", "table4", "table5")}
    assert per_table == {"table1": 24, "table2": 26, "table4": 16, "table5": 5}


@pytest.mark.parametrize(
    ("table", "block", "method", "rank", "count"),
    [
        ("table1", "llama-7b", "dual_lora", "16", 56_098_816),
        ("table1", "llama3-70b", "dual_lora", "8", 138_936_320),
        ("table1", "llama-7b", "adapter_p", "", 247_463_936),
        ("table2", "roberta-base", "corda", "128", 21_233_664),
        ("table2", "roberta-base", "vera", "1024", 156_672),
        ("table4", "gpt2-large", "adapter_l", "", 23_002_848),
        ("table5", "llama-7b", "dual_lora", "64", 112_197_632),
    ],
)
def test_counts_known_from_elsewhere(table: str, block: str, method: str, rank: str, count: int) -> None:
    found = [e.count for e in ENTRIES if (e.table, e.block, e.method, e.rank) == (table, block, method, rank)]
    assert set(found) == {count}


def test_whatever_disagrees_is_explained_and_nothing_else() -> None:
    explained = {item.row for item in audit_items() if item.row}
    wrong = [(e.table, e.block, e.method, e.rank, e.paper_label) for e in ENTRIES if not e.agrees]
    assert all(explanation(*place) is not None for place in wrong)
    assert len(wrong) == len(explained)
    assert "unexplained" not in parameters_page(ENTRIES)


def test_the_page_holds_every_item() -> None:
    page = audit_page(audit_items(), list(averages()))
    assert all(f"**{item.where}.**" in page for item in audit_items())
    assert "| table2, roberta-base, galore 8 | 85.9 | 86.0900 | differs |" in page
