"""The HTML page: well formed, self-contained, and with the content of the result files."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from repro.analysis.audit import audit_items
from repro.analysis.claims import score_claims
from repro.analysis.ledger import load_ledger
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import load_profile
from repro.report.figures import draw_table
from repro.report.page import build_page, embedded_json
from repro.report.tables import build_table
from repro.runs.bases import BaseModels
from repro.runs.runner import execute
from repro.runs.states import RunState, State, run_states
from repro.runs.store import Store

_EXECUTION = Execution(wandb=False, micro_batch_size=4, evaluation_tokens=8192)
_VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Collects ids, cells and addresses, and complains of tags that do not close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.cells: list[dict[str, str | None]] = []
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self.tags: set[str] = set()
        self.policy = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.handlers += [name for name in found if name.startswith("on") or name == "style"]
        self.scripts += [""] if tag == "script" else []
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(found["content"])
        self.ids += [str(found["id"])] if "id" in found else []
        self.addresses += [str(found[key]) for key in ("src", "href", "xlink:href") if key in found]
        self.cells += [found] if "data-runs" in found else []

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


Study = tuple[list[tuple[Plan, Sequence[RunState]]], Path, list[Any]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two plans with the states of their runs, a folder of figures, and the scored claims."""
    folder = tmp_path_factory.mktemp("page")
    store, bases, profile = Store(folder / "runs"), BaseModels(), load_profile("smoke")
    plans = [expand(load_experiment(name), profile) for name in ("table1", "table4")]
    for row in plans[0].rows:
        if row.id in ("base", "lora"):
            execute(row.specs[0], store=store, execution=_EXECUTION, bases=bases, group="test")
    states: list[tuple[Plan, Sequence[RunState]]] = [
        (planned, run_states(planned, store)) for planned in plans
    ]
    draw_table(build_table(*states[0]), folder)
    every = {name: expand(load_experiment(name), profile) for name in load_ledger().experiments}
    return states, folder, score_claims(load_ledger(), every, store)


def written(study: Study) -> str:
    text, problems = build_page(*study, audit_items())
    assert problems == []
    return text


@pytest.fixture(scope="module")
def page(study: Study) -> str:
    return written(study)


def test_the_page_is_well_formed_and_asks_for_nothing(page: str) -> None:
    reader = Reader(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    inside = {address for address in reader.addresses if address.startswith("#")}
    pictures = [address for address in reader.addresses if address not in inside]
    assert {address[1:] for address in inside} <= set(reader.ids)
    assert len(pictures) == 1 and pictures[0].startswith("data:image/svg+xml;base64,")
    assert "url(" not in page


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


TEXTS = [
    "%runs%",
    "%title% %script%",
    "<!--<script>",
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "' onmouseover='window.hacked = 1",
    "<svg onload=window.hacked=1><style>*{display:none}</style>",
    "javascript:window.hacked=1",
    "&lt;b&gt; \\u003cb\\u003e ]]> -->",
    "\u2028 \ud800 \x00 \x1b[31m",
    "__proto__",
]


def hostile(study: Study, text: str) -> Study:
    """The study with `text` in every field of its results and plans that takes any text."""
    plans, figures, claims = study

    def changed(state: RunState) -> RunState:
        if state.result is None:
            return replace(state, state=State.FAILED, detail=text)
        result = state.result
        environment = result.environment.model_copy(
            update={"hardware": text, "platform": text, "python": text, "commit": text}
            | {"packages": {text: text}}
        )
        scores = {
            task: score.model_copy(update={"metric": text, "missing": text})
            for task, score in result.scores.items()
        }
        losses = (math.nan, 1.0, math.inf, 0.5, -math.inf)
        return replace(
            state,
            result=result.model_copy(
                update={
                    "slug": text,
                    "environment": environment,
                    "scores": scores | {text: next(iter(scores.values()))},
                    "warnings": (text, text),
                    "training": result.training.model_copy(update={"losses": losses}),
                    "total_seconds": math.nan,
                    "model_revision": text,
                }
            ),
        )

    changed_plans = [
        (
            replace(
                plan,
                experiment=plan.experiment.model_copy(update={"title": text, "paper_notes": (text,)}),
                rows=tuple(replace(row, label=text) for row in plan.rows),
                profile=plan.profile.model_copy(update={"watermark": text, "purpose": text}),
            ),
            [changed(state) for state in states],
        )
        for plan, states in plans
    ]
    return changed_plans, figures, claims


@pytest.mark.parametrize("text", TEXTS)
def test_hostile_records_stay_text(study: Study, page: str, text: str) -> None:
    own, found = Reader(page), Reader(written(hostile(study, text)))
    assert (found.open, found.handlers) == ([], [])
    assert found.tags == own.tags and found.policy == own.policy
    assert len(found.scripts) == 2 and found.scripts[1] == own.scripts[1]
    runs = json.loads(found.scripts[0], parse_constant=pytest.fail)
    done = [run for run in runs.values() if run["state"] == "done"]
    assert done and all(run["warnings"] == [text, text] for run in done)
    assert all(run["losses"] == [None, 1.0, None, 0.5, None] and run["diverged"] == 3 for run in done)
    assert all(run["detail"] == text for run in runs.values() if run["state"] == "failed")
    assert len(found.cells) == len(own.cells)


def test_the_policy_lets_only_the_page_s_own_script_and_style_in(page: str) -> None:
    reader = Reader(page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    digest = {
        name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for name, text in (("script", reader.scripts[1]), ("style", style))
    }
    assert reader.policy.split("; ")[:4] == [
        "default-src 'none'",
        f"script-src 'sha256-{digest['script']}'",
        f"style-src 'sha256-{digest['style']}'",
        "img-src data:",
    ]
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", reader.scripts[1])


def test_json_in_a_page_is_json_and_nothing_else() -> None:
    content = {"a<": ["</script>", "<!--", "&amp;", "\u2028\ud800", math.nan, {"b": -math.inf}], "n": 1.5}
    text = embedded_json(content)
    assert not re.search(r"[<>&\u2028\u2029]|NaN|Infinity", text)
    assert json.loads(text) == {"a<": [*content["a<"][:4], None, {"b": None}], "n": 1.5}  # type: ignore[index]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a picture",
        b"<svg",
        b"<html/>",
        b"<svg/>",
        b"\xff\xfe\x00",
        b'<svg xmlns="http://www.w3.org/2000/svg">\xe9</svg>',
    ],
)
def test_what_is_no_picture_is_left_out_and_named(study: Study, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table1.svg").write_bytes(content)
    (tmp_path / "table4.svg").mkdir()
    text, problems = build_page(study[0], tmp_path, study[2], audit_items())
    assert len(problems) == 2 and "table1.svg is no SVG picture" in problems[0] and "table4" in problems[1]
    assert "<img" not in text and "table1.svg is no SVG picture" in text


def test_a_script_in_a_picture_is_not_a_part_of_the_page(study: Study, page: str, tmp_path: Path) -> None:
    (tmp_path / "table1.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" onload="hacked=1"><script>window.hacked=1</script></svg>'
    )
    text = written((study[0], tmp_path, study[2]))
    assert "hacked" not in text
    assert Reader(text).tags == Reader(page).tags


# Runs before the page's own script: clicks every cell once all is loaded, and writes what came of it.
_VISITOR = """
const broken = [];
document.addEventListener("securitypolicyviolation", (event) => broken.push(event.violatedDirective));
window.addEventListener("error", (event) => broken.push(event.message));
window.addEventListener("load", () => {
  const cells = [...document.querySelectorAll("td.cell")];
  const texts = cells.map((cell) => {
    cell.click();
    return [...cell.closest("section").querySelectorAll(".detail article")].map((made) => made.textContent);
  });
  const outcome = document.createElement("pre");
  outcome.id = "outcome";
  const pictures = [...document.images].map((image) => image.naturalWidth);
  const elements = [...document.querySelectorAll(".detail *")].map((made) => made.localName);
  outcome.textContent = btoa(encodeURIComponent(JSON.stringify(
    {broken, texts, pictures, elements: [...new Set(elements)].sort(), hacked: window.hacked ?? null})));
  document.body.append(outcome);
});
"""


@pytest.fixture
def visit(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Opens a page in a browser, clicks every cell and tells what came of it."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium or chrome on this machine")

    def visited(page: str) -> dict[str, Any]:
        digest = base64.b64encode(hashlib.sha256(_VISITOR.encode()).digest()).decode()
        text = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
        text = text.replace("<style>", f"<script>{_VISITOR}</script><style>", 1)
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/user"]
        address = (tmp_path / "page.html").as_uri()
        done = subprocess.run(
            [*command, "--virtual-time-budget=5000", "--dump-dom", address],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        found = re.search(r'<pre id="outcome">([^<]*)</pre>', done.stdout)
        assert found, done.stderr[-2000:]
        return dict(json.loads(unquote(base64.b64decode(found[1]).decode())))

    return visited


def test_a_browser_shows_hostile_records_as_text(
    study: Study, visit: Callable[[str], dict[str, Any]]
) -> None:
    text = " ".join(TEXTS).replace("\ud800", "").replace("\x00", "")
    outcome = visit(written(hostile(study, text)))
    assert (outcome["broken"], outcome["hacked"]) == ([], None)
    assert outcome["pictures"] and all(width > 0 for width in outcome["pictures"])
    assert len(outcome["texts"]) == 2 * 9 + 1
    assert all(len(articles) == 1 and text in articles[0] for articles in outcome["texts"])
    own = {"article", "strong", "pre", "p", "div", "b", "svg", "path", "text"}
    assert set(outcome["elements"]) <= own
    assert any("diverged" in article for articles in outcome["texts"] for article in articles)
