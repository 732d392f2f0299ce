import { $, Problem, api, el, number, say, toast } from "./api.js";
import { confidence, marked, selected } from "./marks.js";

const AHEAD = 12, LOW = 5; // items held, and how few are left when more are fetched
let queue = [], draft = [], edited = false, fetching = null, drained = false, round = 0;
let settled = []; // what was accepted at once while a claim was on its way, which may bring some of it
let sending = Promise.resolve(); // decisions go out one after the other, behind the page's back

const filters = () => ({
  order: $("#order").value,
  ...($("#category").value && { category: $("#category").value }),
  ...($("#attribute").value && { attribute: $("#attribute").value }),
});

function fetchMore() {
  if (fetching || drained || queue.length > LOW) return fetching;
  const mine = round;
  // After what was decided: equal cases that are just being accepted wait no more.
  fetching = sending.then(() => api("POST", "/v1/feedback/claim", { n: AHEAD, ...filters() })).then(({ items }) => {
    fetching = null;
    if (mine !== round) return;
    drained = items.length === 0;
    const fresh = items.filter(item => !settled.some(same => same(item)));
    settled = [];
    queue.push(...fresh);
    if (queue.length === fresh.length) show();
  }, problem => { fetching = null; say(problem); });
  return fetching;
}

function show() {
  const item = queue[0];
  $("#problem").hidden = true;
  $("#item").hidden = !item;
  $("#item").ariaBusy = "false";
  $("#done").hidden = Boolean(item) || !drained;
  if (!item) return drained ? showDone() : fetchMore();
  draft = item.values.map(value => ({ value: value.value, place: value.evidence, status: value.status, confidence: value.confidence }));
  edited = false;
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
  fetchMore();
}

function showDone() {
  const filtered = $("#category").value || $("#attribute").value;
  $("#done-title").textContent = filtered ? "Nothing waits here" : "Nothing waits for review";
  $("#done-why").textContent = filtered ? "Choose other categories or attributes, or all." : "Values whose confidence is below their threshold come here as jobs extract them.";
}

function paint() {
  const item = queue[0];
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
  const remove = queue[0].definition.multiple && el("button", { type: "button", className: "remove", ariaLabel: `Remove ${value.value}`, onclick: () => { draft.splice(i, 1); edited = true; paint(); } }, "×");
  const sure = !edited && value.confidence !== undefined && confidence(value.confidence);
  return el("span", { className: "chip" }, el("bdi", {}, value.value), value.status && value.status !== "verbatim" && el("span", { className: `badge ${value.status}` }, value.status), remove, sure);
}

function put(value) {
  const several = queue[0].definition.multiple;
  draft = several ? [...(edited ? draft : draft.filter(v => v.value !== value.value)), value].filter((v, i, all) => all.findIndex(o => o.value === v.value) === i) : [value];
  edited = true;
  paint();
}

/** Send behind the page's back; what is refused comes back to the front. */
function send(path, body, item) {
  sending = sending.then(() => api("POST", path, body)).then(answer => { recountSoon(); return answer; }).catch(problem => {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.status === 409) return toast(problem.message); // somebody else was faster
    queue.unshift(item);
    show();
    say(problem, $("#problem"));
  });
  return sending;
}

function decide(values) {
  const item = queue.shift();
  if (!item) return;
  lower(1);
  send("/v1/feedback/decide", { offer_id: item.offer_id, attribute: item.attribute, values }, item);
  show();
}

const accept = () => decide(draft.map(v => (edited && v.place ? v.place : v.value)));

function acceptAlike() {
  const item = queue[0];
  if (!item || item.alike < 2) return;
  const same = other => other.category === item.category && other.attribute === item.attribute && JSON.stringify(other.values.map(v => v.value)) === JSON.stringify(item.values.map(v => v.value));
  queue = queue.filter(other => !same(other));
  if (fetching) settled.push(same);
  lower(item.alike);
  send("/v1/feedback/decide-alike", { category: item.category, attribute: item.attribute, values: item.values.map(v => v.value) }, item)
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
    const back = new Set(items.map(i => JSON.stringify([i.offer_id, i.attribute])));
    queue = [...items, ...queue.filter(i => !back.has(JSON.stringify([i.offer_id, i.attribute])))];
    drained = false;
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
  const { category, attribute } = filters();
  const query = new URLSearchParams({ ...(category && { category }), ...(attribute && { attribute }) });
  try {
    const { waiting: left, mine } = await api("GET", `/v1/feedback/counts?${query}`);
    waiting.n = left;
    $("#waiting").textContent = number(left);
    $("#today").textContent = number(mine.today);
    $("#pace").textContent = mine.pace.toFixed(1);
  } catch (problem) { say(problem); }
}

async function restart() {
  round++;
  queue = [];
  settled = [];
  drained = false;
  fetching = null;
  $("#item").ariaBusy = "true";
  await api("POST", "/v1/feedback/release").catch(say);
  await Promise.all([fetchMore(), recount()]);
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
  else if (edited) accept();
});

/* A value is taken from the text by selecting it. */
let held = false, resting = 0;
document.addEventListener("selectionchange", () => {
  if (!queue.length) return;
  clearTimeout(resting);
  resting = setTimeout(take, matchMedia("(pointer: coarse)").matches ? 400 : 60);
});
addEventListener("pointerdown", () => { held = true; });
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
  y: accept, Enter: accept, n: () => decide([]), s: skip, u: undo, a: acceptAlike,
  e: () => $("#value").focus(), "?": () => $("#help").showModal(),
};
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat || $("#help").open) return;
  if (event.target.matches("input, select, textarea") || (event.key === "Enter" && event.target.matches("button, a"))) return;
  if (!act[event.key] || (!queue.length && !"u?".includes(event.key))) return;
  event.preventDefault();
  act[event.key]();
});
for (const [id, name] of Object.entries({ accept: "y", none: "n", skip: "s", undo: "u", alike: "a", keys: "?", "undo-last": "u" })) $(`#${id}`).addEventListener("click", () => act[name]());
addEventListener("pagehide", () => { if (queue.length) api("POST", "/v1/feedback/release", undefined, { keepalive: true }).catch(() => {}); });

async function start() {
  const categories = await api("GET", "/v1/feedback/filters");
  const attributes = () => {
    const chosen = $("#category").value, sums = new Map();
    for (const c of categories) if (!chosen || c.category === chosen) for (const a of c.attributes) sums.set(a.attribute, (sums.get(a.attribute) ?? 0) + a.waiting);
    const before = $("#attribute").value;
    $("#attribute").replaceChildren(el("option", { value: "" }, "All attributes"), ...[...sums].sort(([, a], [, b]) => b - a).map(([name, n]) => el("option", { value: name }, `${name} (${number(n)})`)));
    if (sums.has(before)) $("#attribute").value = before;
  };
  $("#category").append(...categories.map(c => el("option", { value: c.category }, `${c.category || "no category"} (${number(c.waiting)})`)));
  attributes();
  $("#category").addEventListener("change", () => { attributes(); restart(); });
  for (const id of ["order", "attribute"]) $(`#${id}`).addEventListener("change", restart);
  await Promise.all([fetchMore(), recount()]);
}
start().catch(problem => say(problem));
