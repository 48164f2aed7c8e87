
"use strict";
// By its element as well: an experiment may be called "data".
const data = JSON.parse(document.querySelector("script#data").textContent);
const STEP = 20, RUNS = 8;

function element(name, content, className) {
  const made = document.createElement(name);
  if (content !== undefined) made.append(...[content].flat().map((part) => part instanceof Node ? part : String(part)));
  if (className) made.className = className;
  return made;
}

function button(text, act) {
  const made = element("button", text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

// What is no number, as a loss that diverged, is null in JSON.
function number(value, digits) {
  return typeof value === "number" ? value.toFixed(digits) : "-";
}

// Each part of the data is unpacked when it is first looked at.
const unpacked = new Map();
function unpack(group, key) {
  const name = `${group} ${key}`;
  if (!unpacked.has(name)) unpacked.set(name, inflate(key === "" ? data[group] : data[group][key]));
  return unpacked.get(name);
}

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function table(headings, rows, numbers = [], className = "wide") {
  const cells = (name, texts) => element("tr", texts.map((text, i) =>
    element(name, text, numbers.includes(i) ? "number" : "")));
  return element("div", element("table", [
    element("thead", cells("th", headings)), element("tbody", rows.map((row) => cells("td", row)))]), className);
}

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Training losses as lines, one a run, the first run's validation losses dashed.
function curves(runs) {
  const width = 420, height = 130, left = 46, below = 18;
  const lines = runs.map((run) => run.losses.map((loss, i) => [i * run.every + 1, loss]));
  const checked = runs[0].validation;
  const all = [...lines.flat(), ...checked].filter(([, loss]) => loss !== null);
  const low = all.length ? Math.min(...all.map(([, loss]) => loss)) : null;
  const high = all.length ? Math.max(...all.map(([, loss]) => loss)) : null;
  const last = Math.max(2, ...all.map(([step]) => step));
  const path = (points) => points.map(([step, loss], i) => loss === null ? "" :
    (i && points[i - 1][1] !== null ? "L" : "M") +
    (left + ((step - 1) / (last - 1)) * (width - left - 6)).toFixed(1) + "," +
    (6 + (1 - (loss - low) / (high - low || 1)) * (height - below - 12)).toFixed(1)).join("");
  const svg = drawn("svg", { class: "curves", width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.append(drawn("path", { class: "axis", d: `M${left},4V${height - below}H${width}` }));
  lines.forEach((line, i) => svg.append(drawn("path", { class: i ? "own later" : "own", d: path(line) })));
  if (checked.length > 1) svg.append(drawn("path", { class: "validation", d: path(checked) }));
  svg.append(drawn("text", { x: left - 4, y: 12, "text-anchor": "end" }, number(high, 2)),
    drawn("text", { x: left - 4, y: height - below, "text-anchor": "end" }, number(low, 2)),
    drawn("text", { x: left, y: height - 4 }, `training loss over ${last} steps` +
      (checked.length > 1 ? "; dashed: validation loss" : "")));
  return svg;
}

function scoreOf(run, column) {
  return (run.scores ?? []).find((score) => score.column === column);
}

function runsOf(row, column) {
  return row.columns?.[column] ?? (row.columns ? Object.values(row.columns).flat() : row.runs);
}

function runsTable(all, places, column) {
  const made = element("div");
  const draw = (most) => {
    const rows = places.slice(0, most).map((place) => {
      const run = all[place], score = scoreOf(run, column);
      const value = score ? (score.value === null ? "missing" : score.value.toFixed(2)) : run.scores ? "" : run.state;
      return [run.seed, value, score?.items ?? "", score ? `${(100 * score.unparsed).toFixed(1)} %` : "",
        run.steps ?? "", run.seconds === undefined ? "" : `${number(run.seconds, 0)} s`, run.commit ?? "", run.slug];
    });
    made.replaceChildren(table(["seed", "score", "items", "unparsed", "steps", "time", "code", "run"], rows, [0, 1, 2, 3, 4, 5], "wide runs"));
    if (places.length > most) made.append(button(`all ${places.length} runs`, () => draw(places.length)));
  };
  draw(RUNS);
  for (const place of places.slice(0, RUNS)) {
    const run = all[place], score = scoreOf(run, column);
    const told = [run.detail, score?.missing, ...(run.warnings ?? [])].filter(Boolean);
    if (run.diverged) told.push(`diverged: the loss is no number in ${run.diverged} steps`);
    for (const text of new Set(told)) made.append(element("p", `seed ${run.seed}: ${text}`, "warning"));
  }
  return made;
}

const shown = (value) => value === undefined ? "-" : typeof value === "string" ? value : JSON.stringify(value);

function settingsTables(settings, own, above, labels) {
  const mine = settings[own], made = [];
  if (!mine) return made;
  if (settings[above]) {
    const keys = [...new Set([...Object.keys(settings[above]), ...Object.keys(mine)])]
      .filter((key) => JSON.stringify(settings[above][key]) !== JSON.stringify(mine[key]));
    made.push(element("h4", "Settings that differ from the row above"), keys.length
      ? table(["setting", ...labels], keys.map((key) => [key, shown(settings[above][key]), shown(mine[key])]))
      : element("p", "none"));
  }
  const every = element("details", element("summary", "All settings"));
  every.addEventListener("toggle", () => {
    if (every.children.length < 2) every.append(table(["setting", "value"], Object.entries(mine).map(([key, value]) => [key, shown(value)])));
  });
  made.push(every);
  return made;
}

// One item of a run: right (1, 0, null), choice (-1: no answer read, null: none), whether it is known, scores, text.
function answerAt(part, i) {
  return { right: part.right[i], choice: part.choice[i], known: part.known[i], scores: part.scores?.[i], text: part.text?.[i] };
}

function differ(one, other) {
  if (one.known && other.known) return one.choice !== other.choice || (one.choice === null && one.text !== other.text);
  return one.right === null || other.right === null ? null : one.right !== other.right;
}

function verdict(answer) {
  if (answer.choice === -1) return element("span", "no answer read", "wrong");
  if (answer.right === null) return element("span", "");
  return answer.right ? element("span", "right", "right") : element("span", "wrong", "wrong");
}

function itemShown([id, question, options, gold, wanted], answers, labels) {
  const made = element("li");
  made.append(element("p", question || "The question is not known here.", question ? "question" : "hole-note"));
  const heads = answers.map((answer, i) => [labels[i], ": ", verdict(answer)]);
  const rows = options.map((option, i) => [
    element("span", i === gold ? `✓ ${option}` : option, i === gold ? "gold" : ""),
    ...answers.map((answer) => element("span", [answer.choice === i ? "● " : "",
      answer.scores?.length ? number(answer.scores[i], 3) : answer.choice === i ? "chosen" : answer.known ? "" : "?"],
    answer.choice === i ? "chosen" : "")),
  ]);
  const beyond = (answer) => answer.choice >= options.length && options.length;
  if (answers.some(beyond)) rows.push(["an option that this item does not have", ...answers.map((answer) => beyond(answer) ? "● chosen" : "")]);
  if (options.length) made.append(table(["options (✓ right)", ...heads], rows, answers.map((_, i) => i + 1)));
  else if (!wanted.length) made.append(element("p", heads.flat(2)));
  if (wanted.length) made.append(element("p", `wanted: ${wanted.join(" | ")}`));
  answers.forEach((answer, i) => {
    if (answer.text !== undefined && answer.text !== null && answer.text !== "") made.append(element("p", `${labels[i]}: ${answer.text}`));
    else if (!options.length && !answer.known) made.append(element("p", `${labels[i]}: the answer is not known`, "hole-note"));
  });
  made.append(element("small", id));
  return made;
}

// The items of a cell: which run, which task, alone or beside another row's run on the same items.
function itemsShown(all, rows, own, column) {
  const made = element("div"), controls = element("div", undefined, "controls"), body = element("div");
  const runs = runsOf(own, column).filter((run) => all[run].scores);
  if (!runs.length) return made;
  made.append(element("h4", "Items"), controls, body);
  const state = { run: runs[0], part: null, other: "", filter: "all", most: STEP };
  const choose = (label, options, act) => {
    const select = element("select", options.map(([value, text]) => {
      const option = element("option", text);
      option.value = value;
      return option;
    }));
    select.addEventListener("change", () => act(select.value));
    controls.append(element("label", [`${label} `, select]));
    return select;
  };
  if (runs.length > 1) choose("seed", runs.map((run) => [run, all[run].seed]), (value) => { state.run = Number(value); start(); });
  const parts = all[runs[0]].parts ?? [];
  state.part = parts.includes(column) ? column : parts[0];
  if (!parts.includes(column) && parts.length > 1) choose("task", parts.map((part) => [part, part]), (value) => { state.part = value; start(); });
  const partner = (row) => {
    const same = runsOf(row, column).filter((run) => all[run].set === all[state.run].set && all[run].scores);
    return same.find((run) => all[run].seed === all[state.run].seed) ?? same[0];
  };
  const others = rows.flatMap((row, i) => row !== own && partner(row) !== undefined ? [[i, row.label]] : []);
  if (others.length) choose("beside", [["", "nothing"], ...others], (value) => {
    state.other = value;
    state.filter = value === "" ? "all" : "differ";
    start();
  });
  const filters = element("span");
  controls.append(filters);

  async function start() {
    state.most = STEP;
    const run = all[state.run];
    const two = state.other !== "";
    const compared = two ? partner(rows[state.other]) : null;
    const holes = [...new Set([...(run.holes ?? []), ...(two ? all[compared].holes ?? [] : [])])].map((hole) => element("p", hole, "hole-note"));
    const kept = [state.run, ...(two ? [compared] : [])];
    if (!state.part || kept.some((one) => data.answers[one] === undefined)) {
      body.replaceChildren(...holes);
      return;
    }
    const [questions, ...answered] = await Promise.all([
      unpack("questions", `${run.set}/${state.part}`), ...kept.map((one) => unpack("answers", one))]);
    const items = questions.map((question, i) => [question, answered.map((answers) => answerAt(answers[state.part], i))]);
    const unread = scoreOf(run, state.part)?.unparsed;
    const kinds = {
      all: () => true,
      wrong: (answers) => answers.some((answer) => answer.right === 0),
      unparsed: (answers) => answers.some((answer) => answer.choice === -1),
      ...(two ? { differ: (answers) => differ(...answers) } : {}),
    };
    const names = { all: "all", wrong: "wrong", unparsed: "unparsed", differ: "changed" };
    filters.replaceChildren(...Object.entries(kinds).map(([kind, test]) => {
      const unsure = (kind === "unparsed" && unread > 0 && items.some(([, [answer]]) => !answer.known)) ||
        (kind === "wrong" && items.some(([, answers]) => answers.some((answer) => answer.right === null))) ||
        (kind === "differ" && items.some(([, answers]) => differ(...answers) === null));
      const count = items.filter(([, answers]) => test(answers)).length;
      const made = button(`${names[kind]} ${unsure && !count ? "?" : count}`, () => { state.filter = kind; state.most = STEP; start(); });
      made.setAttribute("aria-pressed", String(state.filter === kind));
      if (unsure && !count) made.title = "not known for these runs";
      return made;
    }));
    const found = items.filter(([, answers]) => kinds[state.filter](answers));
    const labels = [own.label, ...(two ? [rows[state.other].label] : [])];
    const list = element("ol", undefined, "items"), more = element("p");
    const draw = () => {
      for (const [question, answers] of found.slice(list.children.length, state.most)) list.append(itemShown(question, answers, labels));
      more.replaceChildren(`${Math.min(state.most, found.length)} of ${found.length} items `);
      if (state.most < found.length) more.append(button(`${STEP} more`, () => { state.most += STEP; draw(); }));
    };
    draw();
    body.replaceChildren(...holes, list, more);
  }
  made.ready = start();
  return made;
}

async function panelOf(cell) {
  const section = cell.closest("section"), { row: rowPlace, column } = cell.dataset;
  const { runs: all, tables, settings } = await unpack("runs", "");
  const rows = tables[section.id], own = rows[rowPlace], places = runsOf(own, column);
  const heading = [...section.querySelectorAll("thead th")][cell.closest("td").cellIndex].textContent;
  const title = element("header", [element("h3", `${own.label}, ${heading}: ${cell.textContent}`), button("close", () => close(cell))]);
  const made = element("article", [title, element("p", cell.title.replace(/;? ?open for the (runs|reason)/, ""))]);
  made.setAttribute("aria-label", "runs and items");
  made.append(runsTable(all, places, column));
  const trained = places.map((place) => all[place]).filter((run) => run.losses?.length > 1);
  const pair = element("div", trained.length ? curves(trained.slice(0, 12)) : [], "pair");
  const above = rows.slice(0, rowPlace).reverse().find((row) => row.block === own.block);
  pair.append(element("div", settingsTables(settings, places[0], above && runsOf(above, column)[0], [above?.label, own.label])));
  made.append(pair);
  const items = itemsShown(all, rows, own, column);
  made.append(items);
  await items.ready;
  return made;
}

function close(cell) {
  const row = cell.closest("tr").nextElementSibling;
  if (row?.classList.contains("panel")) row.remove();
  cell.removeAttribute("aria-expanded");
  cell.focus();
}

// The panel opens directly below its row; one is open in each table.
async function toggle(cell) {
  const own = cell.closest("table");
  const open = own.querySelector("button[aria-expanded]");
  if (open) close(open);
  if (open === cell) return;
  cell.setAttribute("aria-expanded", "true");
  cell.focus();
  let content;
  try {
    content = await panelOf(cell);
  } catch (error) {
    content = element("article", `This browser cannot read the page's data: ${error.message}`);
  }
  if (!cell.hasAttribute("aria-expanded")) return;
  const holder = element("td", content);
  holder.colSpan = own.querySelectorAll("thead th").length;
  cell.closest("tr").after(element("tr", holder, "panel"));
  holder.querySelector("header")?.scrollIntoView({ block: "nearest" });
}

function opened(cell) {
  return cell.closest(".scroll > table")?.querySelector("button[aria-expanded]");
}

// Arrows go from number to number, over holes and from group to group.
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
function neighbour(cell, [down, right]) {
  const lines = [...cell.closest("table").querySelectorAll("tr:not(.panel)")].map((line) => [...line.children]);
  const at = cell.closest("td");
  let line = lines.findIndex((cells) => cells.includes(at)), place = lines[line].indexOf(at);
  for (;;) {
    line += down;
    place += right;
    if (!lines[line] || place < 0 || place >= lines[0].length) return null;
    const found = lines[line][place]?.querySelector(":scope > button");
    if (found) return found;
  }
}

document.addEventListener("click", (event) => {
  const cell = event.target.closest?.("button[data-row]");
  if (cell) toggle(cell);
});
document.addEventListener("keydown", (event) => {
  const search = document.querySelector("input#search");
  if (event.key === "/" && !event.target.closest("input, select")) {
    event.preventDefault();
    search.focus();
  } else if (event.key === "Escape") {
    const cell = opened(event.target);
    if (cell) close(cell);
    else if (event.target === search) { search.value = ""; find(""); }
  } else if (Object.hasOwn(ARROWS, event.key) && event.target.matches("button[data-row]")) {
    const next = neighbour(event.target, ARROWS[event.key]);
    if (next) { event.preventDefault(); next.focus(); }
  }
});

// Rows that have all words, in themselves or in the title of their section, stay.
function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let any = false;
  for (const section of document.querySelectorAll("main > section")) {
    const title = section.querySelector("h2").textContent.toLowerCase();
    const lines = [...section.querySelectorAll(":scope > .scroll > table > tbody > tr:not(.group):not(.panel), :scope > ul > li")];
    let kept = words.every((word) => title.includes(word));
    for (const line of lines) {
      const found = words.every((word) => title.includes(word) || line.textContent.toLowerCase().includes(word));
      line.hidden = !found;
      if (line.nextElementSibling?.classList.contains("panel")) line.nextElementSibling.hidden = !found;
      kept ||= found;
    }
    for (const group of section.querySelectorAll("tbody")) {
      const line = group.querySelector("tr.group");
      if (line) line.hidden = ![...group.children].some((one) => one !== line && !one.hidden);
    }
    section.hidden = !kept;
    any ||= kept;
  }
  document.querySelector("p#nothing").hidden = any;
}

document.querySelector("div.tools").hidden = false;
document.querySelector("input#search").addEventListener("input", (event) => find(event.target.value));
document.querySelector("input#inside").addEventListener("change", (event) => document.body.classList.toggle("inside", event.target.checked));
