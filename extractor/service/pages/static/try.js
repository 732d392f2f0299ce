import { $, api, el, number, say } from "./api.js";
import { shown } from "./marks.js";

const EXAMPLES = [
  ["Shoes", "Velmora Suede Loafer, Tan, EU 42", "Hand-stitched loafer of Italian suede with a rubber sole. Wide fit."],
  ["Coffee", "Kavaro Espresso Beans Dark Roast 1 kg", "Whole beans from Brazil, roasted in small batches."],
];
const schema = $("#schema"), result = $("#result");
let running = null;

function asked() {
  const option = schema.selectedOptions[0], own = "own" in option.dataset;
  $("#own").hidden = !own;
  $("#asked").textContent = own ? "" : JSON.parse(option.dataset.attributes).join(", ");
  if (!own) return option.value ? option.value : { attributes: JSON.parse(option.dataset.attributes) };
  return { attributes: $("#attributes").value.split(",").map(name => name.trim()).filter(Boolean) };
}

async function extract() {
  const wanted = asked();
  if (!$("#title").value.trim() && !$("#description").value.trim()) return $("#title").focus();
  if (wanted.attributes && !wanted.attributes.length) return $("#attributes").focus();
  running?.abort();
  const mine = running = new AbortController(), begun = performance.now();
  result.ariaBusy = "true";
  try {
    const offer = { id: "try", title: $("#title").value, description: $("#description").value || null };
    const { results: [record] } = await api("POST", "/v1/extract", { offers: [offer], schema: wanted }, { signal: mine.signal });
    result.replaceChildren(record.failure ? failed(record.failure) : found(record, performance.now() - begun));
  } catch (problem) {
    if (problem.name === "AbortError") return;
    const place = el("p", { className: "why" });
    say(problem, place);
    result.replaceChildren(place);
  } finally {
    if (mine === running) result.ariaBusy = "false";
  }
}

const failed = ({ reason, message }) => el("p", { className: "why" }, el("code", {}, reason), ` ${message}`);

function found(record, ms) {
  const { usage, provenance } = record;
  const facts = [`${(ms / 1000).toFixed(2)} s`, `${number(usage.prompt_tokens)} tokens in, ${number(usage.output_tokens)} out`, `${provenance.model}${provenance.adapter ? ` + ${provenance.adapter}` : ""}`, provenance.template];
  const json = el("details", { className: "more" }, el("summary", {}, "Record as JSON"), el("pre", { tabIndex: 0 }, JSON.stringify(record, null, 2)));
  return el("div", { className: "panel" }, shown(record), el("p", { className: "facts" }, facts.map(fact => el("span", {}, fact))), json);
}

schema.addEventListener("change", asked);
$("#offer").addEventListener("submit", event => { event.preventDefault(); extract(); });
$("#offer").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); extract(); }
});
let nth = 0;
$("#example").addEventListener("click", () => {
  const served = [...schema.options].map(option => option.value);
  const fitting = EXAMPLES.filter(([category]) => served.includes(category));
  const [category, title, description] = fitting.length ? fitting[nth++ % fitting.length] : EXAMPLES[0];
  if (fitting.length) schema.value = category;
  $("#title").value = title;
  $("#description").value = description;
  asked();
  extract();
});
asked();
