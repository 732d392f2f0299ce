import { $, Problem, api, el, ended, number, say, toast } from "./api.js";
import { confidence, marked, selected } from "./marks.js";

const AHEAD = 12, LOW = 5; // items held, and how few are left when more are fetched
let queue = [], fetching = null, drained = false, stuck = null, round = 0;
let settled = []; // what was accepted at once while a claim was on its way, which may bring some of it
let claiming = Promise.resolve(), sending = Promise.resolve(), unsent = 0; // decisions go out one after the other, behind the page's back

/** The category that is chosen, "" for none, and undefined for all. */
const chosen = () => ("all" in $("#category").selectedOptions[0].dataset ? undefined : $("#category").value);
const filters = () => ({
  ...(chosen() !== undefined && { category: chosen() }),
  ...($("#attribute").value && { attribute: $("#attribute").value }),
});

const cell = item => JSON.stringify([item.offer_id, item.attribute]);
function fetchMore(first = false) {
  if (fetching || drained || queue.length > LOW) return fetching;
  const mine = round;
  // After what was decided, for equal cases that are just being accepted wait no more; and after the claim before, of which it is to be
  // given what was left.
  const claim = Promise.all([sending, claiming]).then(async () => {
    if (mine !== round) return { items: [] };
    if (first) await api("POST", "/v1/feedback/release");
    return api("POST", "/v1/feedback/claim", { n: AHEAD, order: $("#order").value, ...filters() });
  });
  claiming = claim.catch(() => {});
  fetching = claim.then(({ items }) => {
    if (mine !== round) return;
    [fetching, stuck, drained] = [null, null, items.length === 0];
    const here = new Set(queue.map(cell)), fresh = items.filter(item => !here.has(cell(item)) && !settled.some(same => same(item)));
    settled = [];
    queue.push(...fresh);
    if (queue.length === fresh.length) show();
  }, problem => {
    if (mine !== round) return;
    fetching = null;
    queue.length ? say(problem) : fail(problem);
  });
  return fetching;
}

function fail(problem) {
  if (!(problem instanceof Problem)) throw problem;
  stuck = problem;
  show();
}

function show() {
  const item = queue[0];
  $("#problem").hidden = true;
  $("#item").hidden = !item;
  $("#item").ariaBusy = "false";
  $("#done").hidden = Boolean(item) || !(drained || stuck);
  if (!item) return drained || stuck ? showDone() : fetchMore();
  item.mine ??= { draft: item.values.map(value => ({ value: value.value, place: value.evidence, status: value.status, confidence: value.confidence })), edited: false };
  $("#of").textContent = item.category || "no category";
  $("#offer").textContent = item.offer_id;
  $("#name").textContent = item.attribute;
  $("#about").textContent = [item.definition.description, item.definition.multiple && "several values are possible"].filter(Boolean).join("; ");
  $("#value").value = "";
  $("#value-label").textContent = item.definition.multiple ? "Add a value" : "Another value";
  closeChoices();
  const alike = $("#alike");
  alike.hidden = item.alike < 2;
  alike.replaceChildren(`Accept “${item.values.map(v => v.value).join(", ")}” in ${number(item.alike)} offers `, el("kbd", {}, "a"));
  paint();
  const text = $("#description"), mark = text.querySelector("mark");
  text.scrollTop = mark ? mark.offsetTop - text.offsetTop - text.clientHeight / 2 : 0;
  if (item.problem) say(item.problem, $("#problem"));
  fetchMore();
}

function showDone() {
  const [title, why, again] = stuck ? [stuck.title, stuck.message, "Try again"]
    : waiting.n ? ["Nothing more for you now", "The rest is skipped, or somebody is at it.", "Look again"]
    : Object.keys(filters()).length ? ["Nothing waits here", "Choose other categories or attributes, or all."]
    : ["Nothing waits for review", "Values whose confidence is below their threshold come here as jobs extract them."];
  $("#done-title").textContent = title;
  $("#done-why").textContent = why;
  $("#again").hidden = !again;
  $("#again").textContent = again ?? "";
}

function paint() {
  const item = queue[0], { draft, edited } = item.mine;
  for (const field of ["title", "description"]) {
    const spans = draft.filter(v => v.place?.field === field).map((v, i) => ({ ...v.place, id: i, hue: edited ? "h2" : "h1", name: item.attribute }));
    const place = $(`#${field}`);
    place.replaceChildren(marked(item[field] ?? "", spans));
    place.hidden = !item[field];
  }
  $("#draft").replaceChildren(...(draft.length ? draft.flatMap(chip) : [el("span", { className: "muted" }, "no value")]));
  $("#accept span").textContent = edited ? "Save" : "Accept";
  $("#accept").classList.toggle("changed", edited);
}

function chip(value, i) {
  const { definition, mine: { draft, edited } } = queue[0];
  const remove = definition.multiple && el("button", { type: "button", className: "remove", ariaLabel: `Remove ${value.value}`, onclick: () => change(draft.toSpliced(i, 1)) }, "×");
  const sure = !edited && value.confidence !== undefined && confidence(value.confidence);
  return el("span", { className: "chip" }, el("bdi", {}, value.value), value.status && value.status !== "verbatim" && el("span", { className: `badge ${value.status}` }, value.status), remove, sure);
}

function change(draft) {
  queue[0].mine = { draft, edited: true };
  paint();
}

function put(value) {
  const { definition, mine: { draft, edited } } = queue[0];
  change(definition.multiple ? [...(edited ? draft : draft.filter(v => v.value !== value.value)), value].filter((v, i, all) => all.findIndex(o => o.value === v.value) === i) : [value]);
}

/** Send behind the page's back; what is refused comes again as it was decided, behind the item that is looked at. */
function send(path, body, items) {
  unsent++;
  const small = JSON.stringify(body).length < 20_000; // browsers keep no more than 64 KiB alive
  sending = sending.then(() => api("POST", path, body, { keepalive: small })).catch(problem => {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.status === 409 || queue.length) say(problem);
    if (problem.status === 409) return; // somebody else was faster
    items[0].problem = problem;
    queue.splice(1, 0, ...items);
    if (queue.length === items.length) show();
  }).finally(() => { unsent--; recountSoon(); });
  return sending;
}

function decide() {
  const item = queue.shift();
  if (!item) return;
  const { draft, edited } = item.mine;
  // A value that a vocabulary made of the text is not that text, and the offer may have another text by now.
  const values = draft.map(v => (edited && v.place && (v.status ?? "verbatim") === "verbatim" ? { ...v.place, text: v.value } : v.value));
  lower(1);
  send("/v1/feedback/decide", { offer_id: item.offer_id, attribute: item.attribute, values }, [item]);
  show();
}

function accept() {
  const typed = $("#value").value.trim();
  if (typed && queue.length) {
    openChoices();
    put({ value: choices[at] ?? typed });
  }
  decide();
}

function none() {
  if (queue.length) queue[0].mine = { draft: [], edited: true };
  decide();
}

function acceptAlike() {
  const item = queue[0];
  if (!item || item.alike < 2) return;
  const same = other => other.category === item.category && other.attribute === item.attribute && JSON.stringify(other.values.map(v => v.value)) === JSON.stringify(item.values.map(v => v.value));
  const equal = queue.filter(same);
  queue = queue.filter(other => !same(other));
  if (fetching) settled.push(same);
  lower(item.alike);
  send("/v1/feedback/decide-alike", { category: item.category, attribute: item.attribute, values: item.values.map(v => v.value) }, equal)
    .then(answer => answer && toast(`Accepted in ${number(answer.count)} offers; u takes it back.`));
  show();
}

function skip() {
  if (!queue.length) return;
  queue.shift();
  show();
}

async function undo() {
  await sending;
  try {
    const { items } = await api("POST", "/v1/feedback/undo", {});
    if (!items.length) return toast("Nothing is left to undo.");
    const back = new Set(items.map(cell));
    queue = [...items, ...queue.filter(item => !back.has(cell(item)))];
    [drained, stuck] = [false, null];
    show();
    recount();
  } catch (problem) { say(problem); }
}

const waiting = { n: 0 };
function lower(n) {
  waiting.n = Math.max(0, waiting.n - n);
  $("#waiting").textContent = number(waiting.n);
}

let soon = 0;
function recountSoon() { // once the keys rest, so that no answer overtakes what is still on its way
  clearTimeout(soon);
  soon = setTimeout(recount, 400);
}

async function recount() {
  try {
    const { waiting: left, mine } = await api("GET", `/v1/feedback/counts?${new URLSearchParams(filters())}`);
    waiting.n = left;
    $("#waiting").textContent = number(left);
    $("#today").textContent = number(mine.today);
    $("#pace").textContent = mine.pace.toFixed(1);
    if (!$("#done").hidden) showDone();
  } catch (problem) { say(problem); }
}

function restart() {
  round++;
  [queue, settled, drained, stuck, fetching] = [[], [], false, null, null];
  $("#item").ariaBusy = "true";
  return Promise.all([fetchMore(true), recount()]);
}

/* The list of an enum's values, and of known ones, below the field. */
let choices = [], at = -1;
const known = item => item.definition.values ?? [];
function closeChoices() {
  choices = []; at = -1;
  $("#choices").hidden = true;
  $("#value").ariaExpanded = "false";
  $("#value").removeAttribute("aria-activedescendant");
}
function openChoices() {
  const typed = $("#value").value.trim().toLowerCase();
  const starts = v => v.toLowerCase().startsWith(typed), has = v => v.toLowerCase().includes(typed);
  const all = known(queue[0]);
  choices = [...all.filter(starts), ...all.filter(v => !starts(v) && has(v))].slice(0, 8);
  at = typed && choices.length ? 0 : -1;
  $("#choices").replaceChildren(...choices.map((value, i) => el("li", { id: `choice-${i}`, role: "option", ariaSelected: String(i === at), onmousedown: e => { e.preventDefault(); pick(value); } }, value)));
  $("#choices").hidden = !choices.length;
  $("#value").ariaExpanded = String(choices.length > 0);
  point();
}
function point() {
  [...$("#choices").children].forEach((li, i) => { li.ariaSelected = String(i === at); });
  at >= 0 ? $("#value").setAttribute("aria-activedescendant", `choice-${at}`) : $("#value").removeAttribute("aria-activedescendant");
}
function pick(value) {
  $("#value").value = "";
  closeChoices();
  put({ value });
  if (!queue[0].definition.multiple) { $("#value").blur(); accept(); }
}
$("#value").addEventListener("input", openChoices);
$("#value").addEventListener("focus", openChoices);
$("#value").addEventListener("blur", closeChoices);
$("#value").addEventListener("keydown", event => {
  if ((event.key === "ArrowDown" || event.key === "ArrowUp") && choices.length) {
    event.preventDefault();
    at = (at + (event.key === "ArrowDown" ? 1 : choices.length - 1)) % choices.length;
    point();
  } else if (event.key === "Escape") {
    event.stopPropagation();
    $("#value").value = "";
    $("#value").blur();
  }
});
$("#other").addEventListener("submit", event => {
  event.preventDefault();
  const typed = $("#value").value.trim();
  if (at >= 0) pick(choices[at]);
  else if (typed) pick(typed);
  else if (queue[0]?.mine.edited) accept();
});

/* A value is taken from the text by selecting it. */
let held = false, pointed = false, resting = 0; // a pointer is down, and it was used after the keys
document.addEventListener("selectionchange", () => {
  if (!queue.length) return;
  clearTimeout(resting);
  resting = setTimeout(take, matchMedia("(pointer: coarse)").matches ? 400 : 60);
});
addEventListener("pointerdown", () => { held = pointed = true; });
addEventListener("pointerup", () => { held = false; take(); });
function take() {
  if (held || !queue.length) return;
  for (const place of [$("#title"), $("#description")]) {
    const span = selected(place);
    if (!span) continue;
    const text = Array.from(queue[0][place.dataset.field]).slice(span.begin, span.end).join("");
    getSelection().removeAllRanges();
    put({ value: text, place: { field: place.dataset.field, ...span } });
  }
}

const act = {
  y: accept, Enter: accept, n: none, s: skip, u: undo, a: acceptAlike,
  e: () => $("#value").focus(), "?": () => $("#help").showModal(),
};
addEventListener("keydown", event => {
  pointed = false;
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat || $("#help").open) return;
  if (event.target.matches("input, select, textarea") || (event.key === "Enter" && event.target.matches("button, a"))) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key; // with caps lock, too
  if (!act[key] || (!queue.length && !"u?".includes(key))) return;
  event.preventDefault();
  act[key]();
});
for (const [id, name] of Object.entries({ accept: "y", none: "n", skip: "s", undo: "u", alike: "a", keys: "?", "undo-last": "u" })) $(`#${id}`).addEventListener("click", () => act[name]());
$("#again").addEventListener("click", begin);
addEventListener("beforeunload", event => { if (unsent && !ended) event.preventDefault(); });
addEventListener("pagehide", () => { api("POST", "/v1/feedback/release", undefined, { keepalive: true }).catch(() => {}); });

let categories = [];
function attributes() {
  const sums = new Map(), before = $("#attribute").value;
  for (const c of categories) if ([undefined, c.category].includes(chosen())) for (const a of c.attributes) sums.set(a.attribute, (sums.get(a.attribute) ?? 0) + a.waiting);
  $("#attribute").replaceChildren(el("option", { value: "" }, "All attributes"), ...[...sums].sort(([, a], [, b]) => b - a).map(([name, n]) => el("option", { value: name }, `${name} (${number(n)})`)));
  if (sums.has(before)) $("#attribute").value = before;
}
for (const id of ["order", "category", "attribute"]) $(`#${id}`).addEventListener("change", ({ target }) => {
  if (pointed) target.blur(); // so that keys decide again
  if (id === "category") attributes();
  restart();
});

async function start() {
  categories = await api("GET", "/v1/feedback/filters");
  const [all] = $("#category").options, before = chosen();
  $("#category").replaceChildren(all, ...categories.map(c => el("option", { value: c.category, selected: c.category === before }, `${c.category || "no category"} (${number(c.waiting)})`)));
  attributes();
  await restart();
}
function begin() { start().catch(fail); }
begin();
