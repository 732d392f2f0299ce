import { $, api, el, number, say } from "./api.js";
import { chart } from "./chart.js";
import { learning } from "./learn.js";

const percent = share => (share === null ? "—" : `${Math.round(100 * share)} %`);
const share = (part, whole) => (whole ? part / whole : null);

function bar(value, whole) {
  if (value === null) return el("span", { className: "muted" }, "—");
  const said = el("span", {}, percent(value), whole === undefined ? "" : el("span", { className: "muted" }, ` of ${number(whole)}`));
  return el("span", { className: "conf num" }, said, el("span", { className: "bar" }, el("i", { style: { "--c": value } })));
}

const offered = (n, which = "") => `${number(n)} ${which}${n === 1 ? "offer" : "offers"}`;
const sum = (rows, name) => rows.reduce((total, row) => total + row[name], 0);

function byDay(rows) {
  const days = [...new Set(rows.map(row => row.day))].sort();
  const of = (part, whole) => days.map(day => {
    const those = rows.filter(row => row.day === day);
    return { day, value: share(sum(those, part), sum(those, whole)) };
  }).filter(point => point.value !== null);
  return [{ name: "coverage", points: of("valued", "offers") }, { name: "agreement", points: of("agreed", "reviewed") }];
}

function panel(category, rows, days, labels) {
  const shown = category || "no category", reviewed = sum(rows, "reviewed");
  const table = el("table", { className: "table quality" },
    el("thead", {}, el("tr", {}, ["Attribute", "Coverage", "Agreement", "Wait"].map((title, i) => el("th", { scope: "col", className: i > 2 ? "right" : "" }, title)))),
    el("tbody", {}, rows.map(row => el("tr", {}, el("th", { scope: "row" }, el("bdi", {}, row.attribute)), el("td", {}, bar(row.coverage)), el("td", {}, bar(row.agreement, row.reviewed)),
      el("td", { className: "right num" }, number(row.waiting))))));
  const facts = [offered(Math.max(...rows.map(row => row.offers))), `agreement ${percent(share(sum(rows, "agreed"), reviewed))}`, `${offered(labels.labelled, "labelled ")} to learn from`];
  return el("details", { className: "panel category", open: labels.nth === 0 },
    el("summary", {}, el("h2", {}, el("bdi", {}, shown)), el("span", { className: "facts" }, facts.map(fact => el("span", {}, fact)))),
    chart(byDay(days), `Coverage and agreement of ${shown} by day`), el("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `Attributes of ${shown}` }, table),
    el("div", { className: "learn", dataset: { category } }));
}

async function start() {
  const [{ attributes, categories }, days] = await Promise.all([api("GET", "/v1/quality"), api("GET", "/v1/quality/days")]);
  const of = (rows, category) => rows.filter(row => row.category === category);
  $("#categories").replaceChildren(...categories.map((labels, nth) => panel(labels.category, of(attributes, labels.category), of(days, labels.category), { ...labels, nth })));
  $("#categories").ariaBusy = "false";
  $("#nothing").hidden = categories.length > 0;
  const places = [...document.querySelectorAll(".learn")].map((place, nth) => ({ place, ...categories[nth] }));
  if (places.length) await learning(places, "admin" in $("#categories").dataset);
}
start().catch(problem => say(problem));
