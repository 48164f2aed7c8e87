"""The HTML page: well formed, self-contained, and with the content of the result files."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

from repro.analysis.audit import audit_items
from repro.analysis.claims import score_claims
from repro.analysis.frames import compared_items
from repro.analysis.ledger import load_ledger
from repro.analysis.statistics import Estimate
from repro.analysis.verdicts import Scored
from repro.analysis.verdicts import Tested as Comparison
from repro.benchmarks.commonsense import BENCHMARK as Commonsense
from repro.cli import main
from repro.plans.execution import Execution
from repro.plans.experiment import load_experiment
from repro.plans.plan import Plan, expand
from repro.plans.profile import load_profile
from repro.report.figures import draw_table
from repro.report.output import draw_experiment
from repro.report.page import build_page, embedded_json
from repro.report.page_claims import claims_html
from repro.report.page_tables import escape
from repro.report.tables import build_table
from repro.runs.bases import BaseModels
from repro.runs.runner import execute
from repro.runs.states import RunState, State, run_states
from repro.runs.store import Store
from tests.report.browser import Browser, find_browser

_EXECUTION = Execution(wandb=False, micro_batch_size=4, evaluation_tokens=8192)
_VOID = {"meta", "img", "input", "rect", "circle", "path"}


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
        self.cells += [found] if "data-row" in found else []

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class Study(NamedTuple):
    """What a page is built from."""

    plans: list[tuple[Plan, Sequence[RunState]]]
    store: Store
    figures: Path
    claims: list[Scored]

    @property
    def table1(self) -> Plan:
        return self.plans[1][0]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Plans with the states of their runs, a folder of figures, and the scored claims."""
    folder = tmp_path_factory.mktemp("page")
    store, bases, profile = Store(folder / "runs"), BaseModels(), load_profile("smoke")
    plans = [expand(load_experiment(name), profile) for name in ("fig3", "table1", "table4")]
    begun = [row for row in plans[1].rows if row.id in ("base", "lora")] + [plans[0].rows[0]]
    for row in begun:
        execute(row.specs[0], store=store, execution=_EXECUTION, bases=bases, group="test")
    states: list[tuple[Plan, Sequence[RunState]]] = [
        (planned, run_states(planned, store)) for planned in plans
    ]
    draw_table(build_table(*states[1]), folder)
    every = {name: expand(load_experiment(name), profile) for name in load_ledger().experiments}
    return Study(states, store, folder, score_claims(load_ledger(), every, store))


def written(study: Study) -> str:
    text, problems = build_page(*study, audit_items())
    assert problems == []
    return text


@pytest.fixture(scope="module")
def page(study: Study) -> str:
    return written(study)


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)), parse_constant=pytest.fail)


def data_of(page: str) -> dict[str, Any]:
    """The page's data, with the part that it starts from unpacked."""
    data = json.loads(Reader(page).scripts[0], parse_constant=pytest.fail)
    return data | unpacked(data["runs"])


def test_the_page_is_well_formed_and_asks_for_nothing(page: str) -> None:
    reader = Reader(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    inside = {address for address in reader.addresses if address.startswith("#")}
    pictures = [address for address in reader.addresses if address not in inside]
    assert {address[1:] for address in inside} <= set(reader.ids)
    assert len(pictures) == 1 and pictures[0].startswith("data:image/svg+xml;base64,")
    assert "url(" not in page


def test_a_cell_leads_to_its_runs_and_their_items(study: Study, page: str) -> None:
    cells, data = Reader(page).cells, data_of(page)
    lora = next(row for row in study.table1.rows if row.id == "lora")
    cell = {"data-row": str(study.table1.rows.index(lora)), "data-column": "boolq"}
    assert any(cell.items() <= found.items() for found in cells)
    row = data["tables"]["table1"][int(cell["data-row"])]
    run = data["runs"][row["runs"][0]]
    assert (row["label"], run["slug"], run["state"]) == (lora.label, lora.specs[0].slug, "done")
    result = study.store.result(lora.specs[0])
    assert result is not None
    answers = unpacked(data["answers"][str(row["runs"][0])])["boolq"]
    assert "".join(map(str, answers["right"])) == result.scores["boolq"].outcomes
    questions = unpacked(data["questions"][f"{run['set']}/boolq"])
    tested = {record.id: record for record in lora.specs[0].benchmark.test_records()}
    for (name, question, options, gold, _), choice, right, scores in zip(
        questions, answers["choice"], answers["right"], answers["scores"], strict=True
    ):
        assert (question, tuple(options), gold) == (
            tested[name].question, tested[name].options, tested[name].gold,
        )  # fmt: skip
        assert right == (choice == gold) and scores[choice] == max(scores)
    waiting = [run for run in data["runs"] if run["state"] != "done"]
    assert waiting and all("scores" not in run for run in waiting)


def test_what_has_begun_comes_first_in_the_paper_s_order(study: Study, page: str) -> None:
    order = [name for name in Reader(page).ids if name in ("table1", "fig3", "table4", "claims", "waiting")]
    assert order == ["table1", "fig3", "claims", "waiting", "table4"]
    assert "repro run table4 --profile smoke" in page
    assert page.count("<table") == 4  # two experiments, claims and audit


def test_a_note_of_several_tables_is_said_once(study: Study, page: str) -> None:
    notes = [build_table(*pair).notes for pair in study.plans[:2]]
    shared = set(notes[0]) & set(notes[1])
    assert len(shared) > 3
    for note in shared:
        assert page.count(f"<li>{escape(note)}") == 1


def test_watermark_claims_and_audit_are_on_it(page: str) -> None:
    assert "SMOKE RUN" in page
    assert all(claim.where in page for claim in load_ledger().claims)
    assert "Eq. 7 and Eq. 12" in page


def test_every_measured_claim_has_its_interval_as_a_picture(study: Study) -> None:
    difference = Estimate(1.5, 0.5, 3)
    tested = Comparison("b", "one", "other", None, 0.0, None, 1.0, difference)
    scored = replace(next(s for s in study.claims if s.tested), tested=(tested,), untouched="")
    picture = ElementTree.fromstring(re.search(r"<svg.*</svg>", claims_html([scored]))[0])  # type: ignore[index]
    left, right = map(float, re.findall(r"[MH]([\d.]+)", picture.find("g/path").get("d", "")))  # type: ignore[union-attr]
    point = float(picture.find("g/circle").get("cx", ""))  # type: ignore[union-attr]
    zero = float(re.findall(r"M([\d.]+)", picture.find("path").get("d", ""))[0])  # type: ignore[union-attr]
    assert zero < left < point < right
    # 1.5 ± 0.5 reaches as far as the picture.
    assert (point - zero) / (right - zero) == pytest.approx(1.5 / 2, abs=0.01)
    claimed = picture.find("rect")
    assert claimed is not None and float(claimed.get("x", "")) == zero


def test_our_number_is_in_the_paper_s_cell(study: Study, page: str) -> None:
    lora = next(row for row in study.table1.rows if row.id == "lora")
    result = study.store.result(lora.specs[0])
    assert result is not None
    printed = page.split("Paper: llama-7b. Ours: ")[1].split("<tbody")[0]
    row = printed.split("LoRA (r=32)")[1].split("</tr>")[0]
    assert f'67.5<span class="ours">{result.scores["boolq"].value:.1f}' in row
    # A method of the paper that has not run here is a hole.
    assert '67.9<span class="ours">-</span>' in printed.split("Adapter-P")[1].split("</tr>")[0]


def test_items_that_do_not_fit_are_left_out_and_the_page_says_so(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repro.report.page._MOST", 0)
    data = data_of(written(study))
    done = [run for run in data["runs"] if run["state"] == "done"]
    assert data["answers"] == {} and data["questions"] == {}
    assert len(done) == 3 and all("as many as it has room for" in run["holes"][0] for run in done)


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
        for plan, states in study.plans
    ]
    return study._replace(plans=changed_plans)


@pytest.mark.parametrize("text", TEXTS)
def test_hostile_records_stay_text(study: Study, page: str, text: str) -> None:
    own, found = Reader(page), Reader(written(hostile(study, text)))
    assert (found.open, found.handlers) == ([], [])
    assert found.tags <= own.tags | {"button"} and found.policy == own.policy
    assert len(found.scripts) == 2 and found.scripts[1] == own.scripts[1]
    runs = data_of(written(hostile(study, text)))["runs"]
    done = [run for run in runs if run["state"] == "done"]
    assert done and all(run["warnings"] == [text, text] for run in done)
    assert all(run["losses"] == [None, 1.0, None, 0.5, None] and run["diverged"] == 3 for run in done)
    assert all(run["detail"] == text for run in runs if run["state"] == "failed")
    # Table 4 has failed there, and so begun.
    assert len(found.cells) > len(own.cells)


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
    (tmp_path / "fig3.svg").mkdir()
    text, problems = build_page(*study._replace(figures=tmp_path), audit_items())
    assert len(problems) == 2 and "table1.svg is no SVG picture" in problems[0] and "fig3" in problems[1]
    assert "<img" not in text and "table1.svg is no SVG picture" in text


def test_a_script_in_a_picture_is_not_a_part_of_the_page(study: Study, page: str, tmp_path: Path) -> None:
    (tmp_path / "table1.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" onload="hacked=1"><script>window.hacked=1</script></svg>'
    )
    text = written(study._replace(figures=tmp_path))
    assert "hacked" not in text
    assert Reader(text).tags == Reader(page).tags


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no chromium or chrome on this machine")
    with Browser(program, tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "page.html"
    path.write_text(page, encoding="utf-8")
    return path


def test_a_browser_shows_hostile_records_as_text(
    study: Study, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(TEXTS).replace("\ud800", "").replace("\x00", "")
    own_item = Commonsense.item
    monkeypatch.setattr(
        Commonsense,
        "item",
        lambda self, record: own_item(self, record)._replace(question=text, options=(text,) * 5),
    )
    path = tmp_path / "page.html"
    path.write_text(written(hostile(study, text)), encoding="utf-8")
    browser.open(path)
    outcome = browser.run(
        """(async () => {
          const articles = [];
          for (const cell of document.querySelectorAll("#table1 button[data-row]")) {
            await toggle(cell);
            articles.push(cell.closest("table").querySelector(".panel article").textContent);
          }
          return {articles, pictures: [...document.images].map((image) => image.naturalWidth),
                  hacked: window.hacked ?? null,
                  elements: [...document.querySelectorAll(".panel *")].map((made) => made.localName)};
        })()"""
    )
    assert (browser.broken, outcome["hacked"]) == ([], None)
    assert outcome["pictures"] and all(width > 0 for width in outcome["pictures"])
    # The untrained model has no gain, and only rows with runs have a probability.
    finished = sum(state.result is not None for state in study.plans[1][1])
    assert len(outcome["articles"]) == len(study.table1.rows) * 10 - 1 + finished
    assert all(text in article for article in outcome["articles"])
    # Warnings, and of a run with items questions and options too.
    assert max(article.count(text) for article in outcome["articles"]) > 4 * 6
    own = "article header h3 h4 p div span table thead tbody tr th td button label select option details"
    assert set(outcome["elements"]) <= {*own.split(), "summary", "svg", "path", "text", "ol", "li", "small"}
    assert any("diverged" in article for article in outcome["articles"])


_OPEN = "document.querySelector('#table1 button[data-column=boolq][data-row=\"{}\"]').click()"


@pytest.mark.parametrize("width", [390, 1280])
def test_a_cell_opens_beside_itself(
    study: Study, file: Path, browser: Browser, tmp_path: Path, width: int
) -> None:
    lora = next(place for place, row in enumerate(study.table1.rows) if row.id == "lora")
    browser.open(file, width, 844)
    browser.run(_OPEN.format(lora))
    browser.wait("document.querySelector('.panel .items li')")
    place = browser.run(
        """(() => {
          const panel = document.querySelector(".panel");
          const inner = panel.querySelector("article").getBoundingClientRect();
          const cell = document.querySelector("button[aria-expanded]").getBoundingClientRect();
          return {above: panel.previousElementSibling.contains(document.activeElement),
                  gap: inner.top - cell.bottom,
                  left: inner.left, right: inner.right, wide: document.documentElement.scrollWidth,
                  seen: innerHeight > inner.top, items: panel.querySelectorAll(".items > li").length,
                  text: panel.querySelector(".items").innerText,
                  curves: panel.querySelectorAll("svg path.own").length};
        })()"""
    )
    assert browser.broken == []
    assert place["above"] and place["seen"] and 0 <= place["gap"] < 10
    assert place["left"] >= 0 and place["right"] <= width and place["wide"] == width
    assert place["items"] == 4 and place["curves"] == 1
    assert "✓ true" in place["text"] or "✓ false" in place["text"]
    assert browser.screenshot(tmp_path / "cell.png").stat().st_size > 10_000


def test_two_methods_are_shown_with_the_items_in_which_they_differ(
    study: Study, file: Path, browser: Browser
) -> None:
    rows = {row.id: place for place, row in enumerate(study.table1.rows)}
    specs = [study.table1.rows[rows[name]].specs[0] for name in ("lora", "base")]
    frame = compared_items(*specs, study.store)
    wanted = frame[(frame["task"] == "boolq") & frame["differ"]]["id"].tolist()
    browser.open(file)
    browser.run(_OPEN.format(rows["lora"]))
    browser.wait("document.querySelector('.panel .items li')")
    assert browser.run("document.querySelectorAll('.panel .items li thead th').length") == 4 * 2
    browser.run(
        """(() => {
          const beside = [...document.querySelectorAll(".panel select")].at(-1);
          beside.value = "PLACE";
          beside.dispatchEvent(new Event("change"));
        })()""".replace("PLACE", str(rows["base"]))
    )
    browser.wait("document.querySelector('.panel button[aria-pressed=true]').innerText.startsWith('changed')")
    assert (
        browser.run("[...document.querySelectorAll('.panel .items small')].map((made) => made.innerText)")
        == wanted
    )
    assert browser.broken == []


def test_keys_move_open_and_close(study: Study, file: Path, browser: Browser) -> None:
    browser.open(file)
    browser.run("document.querySelector('#table1 button[data-column=boolq]').focus()")
    focus = "[document.activeElement.dataset.row, document.activeElement.dataset.column]"
    start = browser.run(focus)
    for key in ("ArrowRight", "ArrowDown"):
        browser.press(key)
    assert browser.run(focus) == [str(int(start[0]) + 1), "piqa"]
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("Enter")
    browser.wait("document.querySelector('.panel article')")
    browser.press("Escape")
    assert browser.run("document.querySelector('.panel')") is None
    assert browser.run(focus) == [str(int(start[0]) + 1), "piqa"]


def test_search_leaves_rows_with_all_words(file: Path, browser: Browser) -> None:
    browser.open(file)
    browser.run(
        """(() => {
          const search = document.querySelector("#search");
          search.value = "table dora r=16";
          search.dispatchEvent(new Event("input"));
        })()"""
    )
    left = (
        "[...document.querySelectorAll('{} tbody th[scope=row]')]"
        ".filter((cell) => cell.checkVisibility()).map((cell) => cell.innerText)"
    )
    assert set(browser.run(left.format("#table1"))) == {"DoRA (r=16)"}
    assert browser.run(left.format("#fig3")) == []
    assert not browser.run("document.querySelector('#nothing').checkVisibility()")


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window_in_light_and_dark(
    file: Path, browser: Browser, tmp_path: Path, width: int
) -> None:
    colors = set()
    for dark in (False, True):
        browser.open(file, width, 844, dark=dark)
        assert browser.run("document.documentElement.scrollWidth") == width
        colors.add(browser.run("getComputedStyle(document.body).backgroundColor"))
        assert browser.screenshot(tmp_path / f"{dark}.png").stat().st_size > 10_000
    assert len(colors) == 2
    browser.run("document.querySelector('#inside').click()")
    shown = "[...document.querySelectorAll('#table1 {}')].filter((one) => one.checkVisibility()).length"
    assert browser.run(shown.format(".measured")) == 0 < browser.run(shown.format(".paper td .ours"))
    assert browser.broken == []


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that `repro report` writes on a clean checkout, with the pictures of Figure 3 alone."""
    root = tmp_path_factory.mktemp("checkout")

    def draw(plan: Plan, *rest: Any) -> None:
        if plan.experiment.name == "fig3":
            draw_experiment(plan, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("REPRO_DATA_DIR", raising=False)
        patch.setattr("repro.paths.ROOT", root)
        patch.setattr("repro.paths.RESULTS", root / "results")
        patch.setattr("repro.report.output.draw_experiment", draw)
        patch.setattr("repro.report.architecture.draw_architecture", lambda plan, folder: [])
        assert main(["report"]) == 0
    return root / "results" / "report" / "laptop.html"


def test_a_clean_checkout_shows_the_committed_results(committed: Path) -> None:
    page = committed.read_text(encoding="utf-8")
    figure = page.split('<section id="fig3">')[1].split("</section>")[0]
    assert figure.index("<img ") < figure.index("<table")
    data = data_of(page)
    done = [run for run in data["runs"] if run["state"] == "done"]
    # What is not committed is a hole with its reason; what package data has is there.
    assert len(done) > 90 and all("predictions are not stored here" in run["holes"][-1] for run in done)
    row = data["tables"]["table1"][0]["runs"][0]
    question = unpacked(data["questions"][f"{data['runs'][row]['set']}/piqa"])[0]
    assert question[1] and len(question[2]) == 2 and question[3] in (0, 1)
    (e2e,) = {run["holes"][0] for run in done if run["slug"].startswith("e2e")}
    assert "REPRO_DATA_DIR" in e2e


@pytest.mark.parametrize("width", [390, 1280])
def test_every_section_of_the_committed_results_opens(
    committed: Path, browser: Browser, tmp_path: Path, width: int
) -> None:
    browser.open(committed, width, 844)
    assert browser.run("performance.getEntriesByType('navigation')[0].loadEventEnd") > 0
    opened = browser.run(
        """(async () => {
          const found = {};
          for (const section of document.querySelectorAll("main > section")) {
            const cell = section.querySelector("button[data-row]");
            if (!cell) continue;
            await toggle(cell);
            found[section.id] = section.querySelectorAll(".panel .items > li").length;
          }
          return found;
        })()"""
    )
    # The first rows of two sweeps have no run.
    assert {"table1", "table4", "fig3", "sweeps/alpha"} <= {name for name in opened if opened[name] == 20}
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.broken == []
    browser.run("document.querySelector('#claims').scrollIntoView()")
    seen = "(() => { const box = document.querySelector('#claims svg').getBoundingClientRect();"
    assert browser.run(seen + " return box.width > 200 && box.left >= 0 && box.right <= innerWidth; })()")
    assert browser.screenshot(tmp_path / "claims.png").stat().st_size > 10_000
