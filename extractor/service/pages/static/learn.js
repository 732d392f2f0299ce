// What people decided becomes an adapter: trained, compared, promoted.
import { api, el, key, number, say, toast, watching } from "./api.js";

const of = category => one => one.category === null || one.category === "" || key(one.category) === key(category);
const live = job => job?.state === "waiting" || job?.state === "running";
const points = value => value.toFixed(1).replace("-", "−");
const signed = value => (value < 0 ? "" : "+") + points(value);
const button = (text, act, className = "") => el("button", { type: "button", className, onclick: act }, text);

let panels = [], admin = false, known = null;

/** Fill the places `{ place, category, labelled }`, and follow what is trained. */
export function learning(places, may) {
  [panels, admin] = [places, may];
  return look();
}

const look = watching(async () => {
  const before = known;
  known = await api("GET", "/v1/adapters/jobs");
  for (const job of known.jobs) {
    const was = before?.jobs.find(other => other.id === job.id);
    if (live(was) && job.state === "finished") toast(`${job.reference} is trained and compared.`);
  }
  for (const panel of panels) fill(panel);
  return known.jobs.some(live);
});

function fill(panel) {
  const job = known.jobs.find(of(panel.category)), serving = known.serving.find(of(panel.category))?.reference;
  const state = JSON.stringify([known.possible, job, serving]);
  if (state === panel.state) return;
  panel.state = state;
  const had = panel.place.contains(document.activeElement) && document.activeElement.textContent;
  panel.place.replaceChildren(...shown(panel, job, serving).flat().filter(Boolean));
  if (had) [...panel.place.querySelectorAll("button")].find(one => one.textContent === had)?.focus();
}

function shown({ place, category, labelled }, job, serving) {
  const ask = (path, body, done) => async () => {
    place.ariaBusy = "true";
    try {
      const answer = await api("POST", `/v1/adapters/${path}`, body);
      if (done) toast(done);
      return answer;
    } catch (problem) { say(problem); } finally {
      place.ariaBusy = "false";
      await look();
    }
  };
  const state = job?.state, missing = Math.max(0, known.enough - labelled);
  const train = known.possible && admin && !missing && !live(job) && button(state ? "Train another" : "Train an adapter", ask("train", { category }), state ? "" : "primary");
  return [
    el("div", { className: "head" }, el("h3", {}, "Adapter"),
      serving ? el("span", { className: "badge state finished" }, `${serving} serves`) : el("span", { className: "badge" }, "none serves"),
      serving && admin && !live(job) ? button("Roll back", ask("rollback", { category: known.serving.find(of(category)).category }, "What served before serves again."), "quiet") : null),
    !known.possible && el("p", { className: "hint" }, "Adapters can be trained where the service was started with ", el("code", {}, "--adapters FOLDER"), "."),
    known.possible && missing > 0 && [el("p", {}, `${number(labelled)} of ${known.enough} labelled offers`),
      el("progress", { max: known.enough, value: labelled, ariaLabel: `Labelled offers of ${category || "no category"}` }),
      el("p", { className: "hint" }, "An offer counts once nothing of it waits for review.")],
    live(job) && underWay(job, ask),
    (state === "failed" || state === "cancelled") && [el("p", { className: state === "failed" ? "why" : "hint" }, job.problem ?? "The training was cancelled."),
      admin && el("div", { className: "actions" }, button("Go on", ask(`jobs/${job.id}/resume`)))],
    state === "finished" && scores(job, serving, ask),
    train && el("div", { className: "actions" }, train, el("span", { className: "hint" }, `Learns from ${number(labelled)} labelled offers, at low priority beside the service; it serves nobody before you promote it.`)),
  ].flat();
}

function underWay(job, ask) {
  const where = job.state === "waiting" ? "It waits for another training." : job.phase === "comparing" ? `It is compared on ${number(job.held_out)} offers that were held out.`
    : job.steps ? `Training: step ${number(job.step)} of ${number(job.steps)}` : "Training begins.";
  const bar = job.phase === "comparing" ? {} : { value: job.fraction ?? 0 };
  return [el("p", {}, where), el("progress", { max: 1, ...bar, ariaLabel: `Training of ${job.category ?? "an adapter"}` }),
    admin && el("div", { className: "actions" }, button("Cancel", ask(`jobs/${job.id}/cancel`), "quiet"))];
}

function scores(job, serving, ask) {
  const { offers, f1, rivals } = job.scores, won = job.unbeaten.length === 0;
  const names = { "zero-shot": "Zero-shot", "few-shot": "Few-shot" };
  const name = rival => names[rival] ?? (rival === serving ? `${rival} (serves)` : rival);
  const rows = rivals.map(rival => el("tr", {}, el("th", { scope: "row" }, el("bdi", {}, name(rival.name))), el("td", { className: "num" }, points(rival.f1)),
    el("td", { className: `num ${job.unbeaten.includes(rival.name) ? "" : "won"}` }, signed(rival.difference)), el("td", { className: "num" }, `${signed(rival.low)} to ${signed(rival.high)}`)));
  const table = el("table", { className: "table scores" },
    el("caption", { className: "vh" }, `Scores of ${job.reference}`),
    el("thead", {}, el("tr", {}, ["", "F1", "Ahead by", "95 % interval"].map(title => title ? el("th", { scope: "col" }, title) : el("td", {})))),
    el("tbody", {}, el("tr", { className: "own" }, el("th", { scope: "row" }, el("bdi", {}, job.reference)), el("td", { className: "num" }, points(f1)), el("td", {}), el("td", {})), rows));
  const verdict = won ? `${job.reference} is better than all of these on ${number(offers)} offers that it has not seen.`
    : `On ${number(offers)} offers that it has not seen, ${job.reference} is not better than ${job.unbeaten.map(rival => names[rival]?.toLowerCase() ?? rival).join(", ")} beyond chance. More labels may help.`;
  return [el("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `Scores of ${job.reference}` }, table),
    el("p", { className: won ? "good" : "hint" }, verdict),
    !job.serves && admin && promotion(job, won, ask)];
}

function promotion(job, won, ask) {
  const promote = body => ask("promote", { reference: job.reference, ...body }, `${job.reference} serves.`);
  const starts = el("span", { className: "hint" }, "The engine starts again with it, which takes about a minute.");
  if (won) return el("div", { className: "actions" }, button("Promote", promote({}), "primary"), starts);
  const reason = el("input", { type: "text", required: true, maxLength: 500, autocomplete: "off" });
  const form = el("form", { className: "reason", hidden: true }, el("label", { className: "field" }, "Why, although it is not better?", reason),
    el("div", { className: "actions" }, el("button", { type: "submit" }, `Promote ${job.reference}`), button("Leave it", () => { form.hidden = true; all.hidden = false; all.focus(); }, "quiet")), starts);
  form.addEventListener("submit", event => { event.preventDefault(); promote({ force: true, reason: reason.value.trim() })(); });
  const all = button("Promote all the same", () => { form.hidden = false; all.hidden = true; reason.focus(); }, "quiet");
  return [el("div", { className: "actions" }, all), form];
}
