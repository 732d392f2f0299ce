import { $, Problem, api, el, key, say, toast } from "./api.js";

const TYPES = { text: "text", enum: "one of a list", number: "number", boolean: "yes or no" };
let served = null, from = 0, begun = null; // the schema as it is served, its version, and the draft before any change

const list = text => text.split(",").map(part => part.trim()).filter(Boolean);

function row(attribute = {}) {
  const field = (label, control, className = "") => el("label", { className: `field ${className}` }, el("span", {}, label), control);
  const text = (name, value, placeholder = "") => el("input", { type: "text", name, value: value ?? "", placeholder, autocomplete: "off" });
  const type = el("select", { name: "type" }, Object.entries(TYPES).map(([value, name]) => el("option", { value, selected: value === (attribute.type ?? "text") }, name)));
  const move = (step, label, sign) => el("button", { type: "button", className: "quiet icon", ariaLabel: label, title: label, onclick: () => {
    const other = step < 0 ? made.previousElementSibling : made.nextElementSibling;
    if (other) step < 0 ? made.after(other) : made.before(other); // what is moved keeps the focus
    changed();
  } }, sign);
  const remove = el("button", { type: "button", className: "quiet icon", ariaLabel: "Remove", title: "Remove", onclick: () => {
    const next = made.nextElementSibling ?? made.previousElementSibling;
    made.remove();
    (next?.querySelector("[title=Remove]") ?? $("#add")).focus();
    changed();
  } }, "×");
  const multiple = el("label", { className: "check" }, el("input", { type: "checkbox", name: "multiple", checked: attribute.multiple ?? false }), "several values");
  const made = el("fieldset", { className: "attribute" }, el("legend", { className: "vh" }, attribute.name || "New attribute"),
    field("Name", text("name", attribute.name)), field("Type", type), field("Description", text("description", attribute.description, "What counts, what does not"), "wide"),
    field("Examples", text("examples", (attribute.examples ?? []).join(", "), "with commas between"), "for-examples"),
    field("Values", text("values", (attribute.values ?? []).join(", "), "all that are allowed, with commas between"), "for-enum"),
    field("Unit", text("unit", attribute.unit, "cm"), "for-number"), multiple,
    el("div", { className: "order" }, move(-1, "Up", "↑"), move(1, "Down", "↓"), remove));
  made.original = attribute;
  const fit = () => {
    made.querySelector(".for-enum").hidden = type.value !== "enum";
    made.querySelector(".for-number").hidden = type.value !== "number";
    multiple.classList.toggle("unfit", type.value === "boolean");
  };
  type.addEventListener("change", fit);
  fit();
  return made;
}

function draft() {
  const attributes = [...$("#rows").children].map(made => {
    const value = name => made.querySelector(`[name=${name}]`).value.trim(), type = value("type");
    const texts = name => { // a value with a comma in it stands as it was, as long as nobody changes the list
      const before = made.original[name] ?? [], typed = list(value(name));
      return JSON.stringify(typed) === JSON.stringify(list(before.join(", "))) ? before : typed;
    };
    return {
      name: value("name"), type, description: value("description") || null, examples: texts("examples"),
      ...(type === "enum" && { values: texts("values") }), ...(type === "number" && value("unit") && { unit: value("unit") }),
      ...(type !== "boolean" && { multiple: made.querySelector("[name=multiple]").checked }),
      ...(type === "text" && made.original.vocabulary?.length && { vocabulary: made.original.vocabulary }),
    };
  });
  return { category: $("#name").value.trim() || null, description: $("#about").value.trim() || null, attributes };
}

const different = () => begun !== null && JSON.stringify(draft()) !== begun;
const leaving = () => !different() || confirm("Leave what is not saved?");

let soon = 0;
function changed() {
  $("#changed").textContent = different() ? "Not saved yet" : "";
  $("#revert").hidden = !different();
  clearTimeout(soon);
  soon = setTimeout(check, 400);
}

async function check() {
  try {
    const schema = draft(), { problems, warnings } = await api("POST", "/v1/schemas/validate", { schema });
    const same = !served && summaries.find(s => key(s.category) === key(schema.category));
    if (same) problems.push({ message: `${same.category} exists already; choose it above` });
    $("#problem").hidden = !problems.length;
    $("#problem").replaceChildren(...problems.flatMap(p => [where(p), el("br")]).slice(0, -1));
    $("#warnings").hidden = !warnings.length;
    $("#warnings").replaceChildren(...warnings.map(w => el("li", {}, where(w))));
    mark(problems);
    return !problems.length;
  } catch (problem) { say(problem, $("#problem")); return false; }
}

const where = ({ place, message }) => {
  const at = /^attributes\.(\d+)/.exec(place ?? "");
  const name = at && $("#rows").children[at[1]]?.querySelector("[name=name]").value;
  return `${name ? `${name}: ` : at ? `Attribute ${+at[1] + 1}: ` : ""}${message}`;
};
function mark(problems) {
  for (const input of $("#rows").querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  for (const { place } of problems) {
    const [, at, name] = /^attributes\.(\d+)(?:\.(\w+))?/.exec(place ?? "") ?? [];
    if (at) $("#rows").children[at]?.querySelector(`[name=${name ?? "name"}]`)?.setAttribute("aria-invalid", "true");
  }
}

function show(schema, version) {
  served = version === null ? null : schema;
  from = version ?? 0;
  $("#name").value = schema.category ?? "";
  $("#name").readOnly = served !== null;
  $("#about").value = schema.description ?? "";
  $("#rows").replaceChildren(...schema.attributes.map(row));
  $("#schema").hidden = $("#trial").hidden = false;
  $("#problem").hidden = $("#warnings").hidden = true;
  $("#results").replaceChildren();
  $("#summary").textContent = "";
  $("#changed").textContent = "";
  $("#revert").hidden = true;
  clearTimeout(soon);
  begun = JSON.stringify(draft());
}

async function load(category) {
  const found = await api("GET", `/v1/schemas/${encodeURIComponent(category)}`);
  if ($("#category").value !== category) return; // another one was chosen meanwhile
  const summary = summaries.find(s => s.category === category) ?? {};
  show(found, summary.version ?? 0);
  suggest(category);
  $("#version").textContent = summary.version ? `Version ${summary.version}, saved by ${summary.who}, ${new Date(summary.at).toLocaleString()}` : "As the service was started with it";
}

/** Offers of the category that were extracted before, unless somebody has written titles. */
let suggested = [];
async function suggest(category) {
  const written = () => $("#titles").value !== suggested.map(line).join("\n");
  if (written()) return;
  const offers = await api("GET", `/v1/feedback/offers?category=${encodeURIComponent(category)}`);
  if (written() || $("#category").value !== category) return;
  suggested = offers;
  $("#titles").value = suggested.map(line).join("\n");
}
const line = offer => offer.title.replace(/\s+/g, " ").trim();

let summaries = [];
async function refresh(chosen) {
  summaries = (await api("GET", "/v1/schemas")).filter(s => s.category !== null);
  $("#category").replaceChildren(...summaries.map(s => el("option", { value: s.category }, s.category)));
  const first = chosen ?? summaries[0]?.category;
  if (!first) return fresh();
  $("#category").value = first;
  await load(first);
}

function fresh() {
  $("#category").selectedIndex = -1;
  show({ category: "", attributes: [{ name: "Brand" }] }, null);
  $("#version").textContent = "";
  $("#name").focus();
}

const back = () => { $("#category").value = served?.category ?? ""; };
$("#category").addEventListener("change", () => leaving() ? load($("#category").value).catch(problem => { back(); say(problem); }) : back());
$("#new").addEventListener("click", () => { if (leaving()) fresh(); });
addEventListener("beforeunload", event => { if (different()) event.preventDefault(); });
$("#add").addEventListener("click", () => {
  $("#rows").append(row());
  $("#rows").lastElementChild.querySelector("[name=name]").focus();
});
$("#revert").addEventListener("click", () => { served ? show(served, from) : fresh(); });
$("#schema").addEventListener("input", changed);
$("#schema").addEventListener("keydown", event => { if (event.key === "Enter" && event.target.matches("input")) event.preventDefault(); }); // a save serves at once
$("#schema").addEventListener("submit", async event => {
  event.preventDefault();
  const schema = draft();
  clearTimeout(soon);
  if (!(await check())) return;
  try {
    const saved = await api("PUT", `/v1/schemas/${encodeURIComponent(schema.category)}`, { schema, from_version: from });
    toast(`Saved as version ${saved.version}.${saved.adapter_left ? ` The adapter ${saved.adapter_left} was trained for the one before and rests.` : ""}`);
    await refresh(schema.category);
  } catch (problem) { say(problem, $("#problem")); }
});

/* What the change does to ten offers. */
$("#try").addEventListener("click", async () => {
  const titles = $("#titles").value.split("\n").map(line => line.trim()).filter(Boolean).slice(0, 10);
  if (!titles.length) return $("#titles").focus();
  const schema = draft();
  $("#results").ariaBusy = "true";
  try {
    const { results } = await api("POST", "/v1/schemas/try", { schema, offers: titles.map((title, i) => ({ ...(suggested.find(offer => line(offer) === title) ?? { title }), id: `try-${i + 1}`, category: schema.category })) });
    const failed = results.filter(r => r.after.failure).length, n = results.filter(r => r.changes.length).length;
    const of = (part, one, more) => `${part} of ${results.length} ${results.length === 1 ? "offer" : "offers"} ${part === 1 ? one : more}`;
    const said = [n ? of(n, "comes out differently", "come out differently") : failed < results.length && "Nothing changes", failed && of(failed, "fails", "fail")];
    $("#summary").textContent = said.filter(Boolean).join("; ");
    $("#results").replaceChildren(...results.map(compared));
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    const place = el("p", { className: "why" });
    say(problem, place);
    $("#results").replaceChildren(place);
  } finally { $("#results").ariaBusy = "false"; }
});

const values = found => found?.length ? found.join(" | ") : "—";
function compared({ after, changes }) {
  const failure = after.failure && el("p", { className: "why" }, after.failure.message);
  const names = Object.keys(after.attributes ?? {}), change = Object.fromEntries(changes.map(c => [c.attribute, c]));
  const gone = changes.filter(c => !names.includes(c.attribute));
  const line = (name, before, now) => el("tr", { className: name in change ? "changed" : "" }, el("th", { scope: "row" }, name),
    el("td", { className: "muted" }, name in change ? values(before) : ""), el("td", {}, values(now)));
  return el("article", { className: "tried" }, el("h3", { dir: "auto" }, after.title), failure,
    el("table", { className: "table" }, el("thead", {}, el("tr", {}, ["Attribute", "Served", "Draft"].map(t => el("th", { scope: "col" }, t)))),
      el("tbody", {}, [...names.map(name => line(name, change[name]?.before, after.attributes[name].map(v => v.value))), ...gone.map(c => line(c.attribute, c.before, []))])));
}

refresh().catch(problem => say(problem));
