// Values in the text of an offer. The API counts code points, JavaScript UTF-16 units.

import { el } from "./api.js";

export const hue = i => `h${(i * 5) % 12}`; // neighbours get distant hues

/** The text with its spans marked; each span is {begin, end, id, hue, name}, and overlapping ones nest. */
export function marked(text, spans) {
  const points = Array.from(text);
  const ordered = [...spans].sort((a, b) => (a.end - a.begin) - (b.end - b.begin));
  ordered.forEach((span, i) => { // overlapping underlines lie below each other
    const taken = new Set(ordered.slice(0, i).filter(s => s.begin < span.end && span.begin < s.end).map(s => s.lane));
    span.lane = 0;
    while (taken.has(span.lane)) span.lane++;
  });
  const edges = [...new Set([0, points.length, ...spans.flatMap(s => [s.begin, s.end])])].sort((a, b) => a - b);
  const fragment = document.createDocumentFragment();
  edges.slice(0, -1).forEach((begin, i) => {
    const end = edges[i + 1];
    const over = ordered.filter(s => s.begin <= begin && end <= s.end).sort((a, b) => a.lane - b.lane);
    let piece = document.createTextNode(points.slice(begin, end).join(""));
    for (const s of over) {
      const ends = `${s.begin === begin ? " s" : ""}${s.end === end ? " e" : ""}`;
      piece = el("mark", { className: s.hue + ends, title: s.name, dataset: { span: s.id }, style: s.lane ? { "--lane": s.lane } : {} }, piece);
    }
    fragment.append(piece);
  });
  return fragment;
}

/** Where a selection that begins in an element that shows one text lies in it: {begin, end} in code points, or null. */
export function selected(element) {
  const selection = getSelection();
  if (!selection.rangeCount || selection.isCollapsed || !element.contains(selection.anchorNode)) return null;
  const range = selection.getRangeAt(0).cloneRange(), before = document.createRange();
  before.selectNodeContents(element); // what was dragged beyond its lines, or clicked three times, ends with it
  if (range.compareBoundaryPoints(Range.START_TO_START, before) < 0) range.setStart(element, 0);
  if (range.compareBoundaryPoints(Range.END_TO_END, before) > 0) range.setEnd(element, element.childNodes.length);
  before.setEnd(range.startContainer, range.startOffset);
  const length = text => Array.from(text).length;
  const lead = length(before.toString()), text = range.toString(), kept = text.trim();
  if (!kept) return null;
  const begin = lead + length(text.slice(0, text.indexOf(kept)));
  return { begin, end: begin + length(kept) };
}

export function confidence(value) {
  if (value === null || value === undefined) return el("span", { className: "conf" }, el("span", { className: "vh" }, "no confidence"));
  return el("span", { className: `conf num${value < 0.5 ? " low" : ""}` }, value.toFixed(2), el("span", { className: "bar" }, el("i", { style: { "--c": value } })));
}

/** A record: its texts with marks, and its values; pointing at one shows the other. */
export function shown(record) {
  const names = Object.keys(record.attributes), spans = { title: [], description: [] }, rows = [];
  let id = 0;
  names.forEach((name, i) => {
    const values = record.attributes[name], swatch = el("span", { className: `swatch ${hue(i)}` });
    if (!values.length) {
      rows.push(el("div", { className: "absent" }, el("dt", {}, swatch, el("bdi", {}, name)), el("dd", { className: "muted" }, el("span", { ariaHidden: "true" }, "—"), el("span", { className: "vh" }, "no value")), el("dd")));
    }
    values.forEach((value, nth) => {
      const place = value.evidence;
      if (place) spans[place.field].push({ begin: place.begin, end: place.end, id: ++id, hue: hue(i), name });
      const normalized = value.normalized_value !== null && [" ", el("span", { className: "muted" }, "→ "), el("bdi", {}, value.normalized_value)];
      const status = value.status !== "verbatim" && [" ", el("span", { className: `badge ${value.status}` }, value.status)];
      rows.push(el("div", { dataset: place ? { span: id } : {} },
        el("dt", {}, nth ? el("span", { className: "vh" }, name) : [swatch, el("bdi", {}, name)]),
        el("dd", {}, el("bdi", {}, value.value), normalized, status), el("dd", {}, confidence(value.confidence))));
    });
  });
  const card = el("article", {},
    el("h2", { className: "offer-title", dir: "auto" }, marked(record.title ?? "", spans.title)),
    record.description ? el("p", { className: `offer-text${record.description.length > 900 ? " long" : ""}`, dir: "auto" }, marked(record.description, spans.description)) : null,
    el("dl", { className: "values" }, rows));
  const light = e => {
    const ids = new Set();
    for (let at = e.type === "mouseleave" ? null : e.target; at && at !== card; at = at.parentElement) if (at.dataset.span) ids.add(at.dataset.span);
    for (const part of card.querySelectorAll("[data-span]")) part.classList.toggle("on", ids.has(part.dataset.span));
  };
  card.addEventListener("mouseover", light);
  card.addEventListener("mouseleave", light);
  return card;
}
