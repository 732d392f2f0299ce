import { $, Problem, api, csrf, el, number, say, toast, watching } from "./api.js";

const FORMATS = { csv: "CSV", xlsx: "Excel", jsonl: "JSON lines", parquet: "Parquet" };
let upload = null;

/* A file comes, and its columns are mapped. */
function send(file) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells nothing of how much has been sent
    request.open("POST", `/v1/uploads?name=${encodeURIComponent(file.name)}`);
    request.setRequestHeader("X-CSRF-Token", csrf);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = event => { if (event.lengthComputable) $("#sent").value = event.loaded / event.total; };
    request.onload = () => {
      let body = {};
      try { body = JSON.parse(request.responseText); } catch { /* a proxy's page */ }
      request.status < 300 ? resolve(body) : reject(new Problem(request.status, body));
    };
    request.onerror = () => reject(new Problem(0, { title: "The upload broke off", detail: "Choose the file again; a file beyond the size limit breaks off, too." }));
    request.send(file);
  });
}

async function take(file) {
  $("#problem").hidden = true;
  $("#sent").hidden = false;
  $("#drop").ariaBusy = "true";
  try {
    upload = await send(file);
    mapped();
  } catch (problem) {
    say(problem, $("#problem"));
  } finally {
    $("#sent").hidden = true;
    $("#sent").value = 0;
    $("#drop").ariaBusy = "false";
    $("#file").value = "";
  }
}

function mapped() {
  $("#drop").hidden = true;
  $("#map").hidden = false;
  $("#file-name").textContent = upload.name;
  for (const select of document.querySelectorAll("[data-field]")) {
    select.replaceChildren(el("option", { value: "" }, select.required ? "Choose a column" : "None"), ...upload.columns.map(column => el("option", { value: column }, column)));
    select.value = upload.guessed[select.dataset.field] ?? "";
  }
  preview();
  $("#column-title").focus();
}

const columns = () => Object.fromEntries([...document.querySelectorAll("[data-field]")].filter(s => s.value).map(s => [s.dataset.field, s.value]));

function preview() {
  const chosen = columns(), field = Object.fromEntries(Object.entries(chosen).map(([f, column]) => [column, f]));
  const first = Object.values(chosen), shown = [...first, ...upload.columns.filter(c => !first.includes(c))].slice(0, 12);
  const head = shown.map(c => el("th", { scope: "col", className: field[c] ? "used" : "" }, el("bdi", {}, c), field[c] && el("span", { className: "badge" }, field[c])));
  $("#preview").replaceChildren(el("thead", {}, el("tr", {}, head)), el("tbody", {}, upload.rows.map(row => el("tr", {}, shown.map(c => el("td", { className: field[c] ? "used" : "", dir: "auto" }, String(row[c] ?? "").slice(0, 160)))))));
  $("#by-category").disabled = !chosen.category;
  if (!chosen.category && !$("#schema").value) $("#schema").selectedIndex = 1;
  const own = "own" in $("#schema").selectedOptions[0].dataset;
  $("#own").hidden = !own;
  $("#note").textContent = chosen.title ? "" : "Which column holds the titles?";
}

$("#map").addEventListener("change", preview);
$("#map").addEventListener("submit", async event => {
  event.preventDefault();
  $("#problem").hidden = true;
  const own = "own" in $("#schema").selectedOptions[0].dataset;
  const names = $("#attributes").value.split(",").map(name => name.trim()).filter(Boolean);
  if (own && !names.length) return $("#attributes").focus();
  $("#start").disabled = true;
  try {
    const asked = own ? { attributes: names } : $("#schema").value || null;
    const job = await api("POST", "/v1/jobs", { upload: upload.id, columns: columns(), ...(asked && { schema: asked }) });
    another();
    place(job);
    $(`#job-${job.id}`).focus();
    look();
  } catch (problem) {
    say(problem, $("#problem"));
  } finally {
    $("#start").disabled = false;
  }
});
function another() {
  $("#problem").hidden = true;
  upload = null;
  $("#map").hidden = true;
  $("#drop").hidden = false;
}
$("#other-file").addEventListener("click", () => { another(); $("#file").focus(); });
$("#file").addEventListener("change", () => { if ($("#file").files[0]) take($("#file").files[0]); });
for (const kind of ["dragover", "dragleave", "drop"]) addEventListener(kind, event => {
  event.preventDefault();
  $("#drop").classList.toggle("over", kind === "dragover");
  if (kind === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
});

/* The jobs, and where they stand. */
const SURE = "Delete for good";
const STATES = { waiting: "waits", running: "runs", cancelled: "cancelled", failed: "stopped", finished: "finished" };
const live = job => job.state === "waiting" || job.state === "running";

function left(seconds) {
  if (seconds === null || seconds === undefined) return null;
  if (seconds < 90) return `${Math.ceil(seconds)} s left`;
  return seconds < 5400 ? `${Math.ceil(seconds / 60)} min left` : `${(seconds / 3600).toFixed(1)} h left`;
}

function facts(job) {
  const { counts } = job;
  return [
    counts.total ? `${number(counts.rows)} of ${number(counts.total)} offers` : `${number(counts.rows)} offers so far`,
    counts.dead ? `${number(counts.dead)} failed` : null,
    job.state === "running" && job.rate ? `${job.rate.toFixed(1)} a second` : null,
    job.state === "running" ? left(job.seconds_left) : null,
    job.ahead ? `${number(job.ahead)} before it` : null,
    new Date(job.created).toLocaleString(),
    job.who,
  ].filter(Boolean);
}

function card(job) {
  const button = (name, text, act, more = {}) => el("button", { type: "button", name, onclick: act, ...more }, text);
  const change = verb => async () => {
    try {
      place(await api("POST", `/v1/jobs/${job.id}/${verb}`));
      look();
    } catch (problem) { say(problem); }
  };
  const remove = button("delete", "Delete", () => {
    if (remove.textContent === SURE) return forget(job);
    remove.textContent = SURE;
    remove.className = "danger";
  }, { className: "quiet", onblur: () => { remove.textContent = "Delete"; remove.className = "quiet"; } });
  const format = el("select", { name: "format", ariaLabel: `Format of ${job.name}` }, Object.entries(FORMATS).map(([ending, name]) => el("option", { value: ending }, name)));
  const download = el("a", { name: "download", className: "button", href: `/v1/jobs/${job.id}/results?format=csv`, download: "" }, "Download");
  format.addEventListener("change", () => { download.href = `/v1/jobs/${job.id}/results?format=${format.value}`; });
  const actions = [
    job.counts.rows > 0 && [format, download],
    job.counts.dead > 0 && button("failures", `Show ${number(job.counts.dead)} failed`, () => failures(job), { className: "quiet" }),
    live(job) && button("cancel", "Cancel", change("cancel"), { className: "quiet" }),
    (job.state === "cancelled" || job.state === "failed") && button("resume", "Go on", change("resume")),
    !live(job) && remove,
  ].flat().filter(Boolean);
  return el("article", { id: `job-${job.id}`, className: "panel job", tabIndex: -1, ariaLabelledby: `name-${job.id}` },
    el("div", { className: "head" }, el("h3", { id: `name-${job.id}` }, el("bdi", {}, job.name)), el("span", { className: `badge state ${job.state}` }, STATES[job.state] ?? job.state)),
    live(job) && el("progress", { max: 1, value: job.state === "waiting" ? 0 : job.fraction ?? 0, ariaLabel: `Progress of ${job.name}` }),
    el("p", { className: "facts" }, facts(job).map(fact => el("span", {}, fact))),
    job.problem && el("p", { className: "why" }, job.problem),
    actions.length ? el("div", { className: "actions" }, actions) : null,
    el("div", { className: "scroll failed", id: `failed-${job.id}`, tabIndex: 0, role: "region", ariaLabel: `Failed offers of ${job.name}` }));
}

async function forget(job) {
  try {
    await api("DELETE", `/v1/jobs/${job.id}`);
  } catch (problem) { return say(problem); }
  const gone = $(`#job-${job.id}`), next = gone.nextElementSibling ?? gone.previousElementSibling;
  gone.remove();
  $("#no-jobs").hidden = next !== null;
  (next ?? $("#file")).focus();
  toast(`${job.name} is deleted. What was extracted stays in Review.`);
}

/** The first rows without a record, and why. */
async function failures(job) {
  const place = $(`#failed-${job.id}`);
  if (place.childElementCount) return place.replaceChildren();
  try {
    const { failures: rows } = await api("GET", `/v1/jobs/${job.id}/failures?limit=20`);
    const row = ({ row, failure }) => el("tr", {}, el("td", { className: "num" }, number(row + 1)), el("td", { dir: "auto" }, failure.title ?? failure.offer_id), el("td", {}, el("code", {}, failure.failure.reason), ` ${failure.failure.message}`));
    place.replaceChildren(el("table", { className: "table" }, el("thead", {}, el("tr", {}, ["Row", "Offer", "Why"].map(title => el("th", { scope: "col" }, title)))), el("tbody", {}, rows.map(row))));
  } catch (problem) { say(problem); }
}

/** The card of a job in place of its card before, with what was chosen, opened and focused there. */
function place(job) {
  const there = $(`#job-${job.id}`), made = card(job);
  made.job = job;
  $("#no-jobs").hidden = true;
  if (!there) return $("#jobs").prepend(made);
  const had = there.contains(document.activeElement) && document.activeElement;
  const chosen = there.querySelector("select")?.value, now = made.querySelector("select");
  if (chosen && now) { now.value = chosen; now.dispatchEvent(new Event("change")); }
  made.querySelector(".failed").replaceWith(there.querySelector(".failed"));
  there.replaceWith(made);
  if (had) (made.contains(had) ? had : made.querySelector(`[name="${had.name}"]`) ?? made).focus({ preventScroll: true });
}

const look = watching(async () => {
  const cards = [...$("#jobs").children], first = $("#jobs").ariaBusy === "true";
  const { jobs } = await api("GET", "/v1/jobs");
  for (const job of [...jobs].reverse()) {
    const card = cards.find(card => card.job.id === job.id);
    if (!first && (!card?.isConnected || JSON.stringify(card.job) === JSON.stringify(job))) continue;
    if (card && live(card.job) && job.state === "finished") toast(`${job.name} is finished.`);
    place(job);
  }
  for (const card of cards) if (!jobs.some(job => job.id === card.job.id)) card.remove();
  $("#jobs").ariaBusy = "false";
  $("#no-jobs").hidden = $("#jobs").childElementCount > 0;
  return [...$("#jobs").children].some(card => live(card.job));
});
look();
