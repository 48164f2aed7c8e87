"""The HTML page: well formed, self-contained, and with the content of the result files."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from repro.analysis.audit import audit_items
from repro.analysis.claims import score_claims
from repro.analysis.ledger import load_ledger
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.report.figures import draw_table
from repro.report.page import build_page
from repro.report.tables import build_table
from repro.runs.bases import BaseModels
from repro.runs.runner import execute
from repro.runs.states import run_states
from repro.runs.store import Store

_EXECUTION = Execution(wandb=False, micro_batch_size=4, evaluation_tokens=8192)
_VOID = {"meta"}


class Reader(HTMLParser):
    """Collects ids, cells and addresses, and complains of tags that do not close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.cells: list[dict[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [str(found["id"])] if "id" in found else []
        self.addresses += [str(found[key]) for key in ("src", "href", "xlink:href") if key in found]
        self.cells += [found] if "data-runs" in found else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    store, bases, profile = Store(folder / "runs"), BaseModels(), load_profile("smoke")
    plans = [expand(load_experiment(name), profile) for name in ("table1", "table4")]
    for row in plans[0].rows:
        if row.id in ("base", "lora"):
            execute(row.specs[0], store=store, execution=_EXECUTION, bases=bases, group="test")
    states = [(planned, run_states(planned, store)) for planned in plans]
    draw_table(build_table(*states[0]), folder)
    return build_page(
        states,
        folder,
        score_claims(
            load_ledger(),
            {name: expand(load_experiment(name), profile) for name in load_ledger().experiments},
            store,
        ),
        audit_items(),
    )


def test_the_page_is_well_formed_and_asks_for_nothing(page: str) -> None:
    reader = Reader(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.addresses and all(address.startswith("#") for address in reader.addresses)
    assert {address[1:] for address in reader.addresses} <= set(reader.ids)
    assert {name for name in re.findall(r"url\(#([^)]+)\)", page)} <= set(reader.ids)
    assert not re.search(r"url\((?!#)", page)


def test_a_cell_leads_to_its_runs_and_their_items(page: str) -> None:
    cells = Reader(page).cells
    runs = json.loads(page.split('id="runs">')[1].split("</script>")[0])
    # Two rows of eight tasks, their averages, and the gain of one over the other.
    assert len(cells) == 2 * 9 + 1
    cell = next(cell for cell in cells if cell["data-column"] == "boolq")
    run = runs[str(cell["data-runs"])]
    assert run["state"] == "done"
    assert run["scores"]["boolq"]["items"] == len(run["scores"]["boolq"]["outcomes"]) == 4
    waiting = [run for run in runs.values() if run["state"] != "done"]
    assert waiting and all("scores" not in run for run in waiting)


def test_watermark_claims_and_audit_are_on_it(page: str) -> None:
    assert "SMOKE RUN" in page
    assert all(claim.where in page for claim in load_ledger().claims)
    assert "Eq. 7 and Eq. 12" in page
