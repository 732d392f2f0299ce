// Lines of shares over days, as SVG.

import { el } from "./api.js";

const NS = "http://www.w3.org/2000/svg", H = 150, LEFT = 40, RIGHT = 8, TOP = 8, BOTTOM = 22;

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** `series` are {name, points: [{day: "2026-11-26", value: 0..1}]}; nothing is drawn of fewer than two days. */
export function chart(series, title) {
  const days = [...new Set(series.flatMap(s => s.points.map(p => p.day)))].sort();
  if (days.length < 2) return null;
  const W = Math.max(280, Math.min(1150, innerWidth - 90)); // so that a unit is a pixel
  const first = Date.parse(days[0]), span = Date.parse(days.at(-1)) - first;
  const x = day => LEFT + (W - LEFT - RIGHT) * (Date.parse(day) - first) / span;
  const y = value => TOP + (H - TOP - BOTTOM) * (1 - value);
  const grid = [0, 0.5, 1].flatMap(value => [
    svg("line", { x1: LEFT, x2: W - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
    svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, `${100 * value} %`),
  ]);
  const ends = [[days[0], "start"], [days.at(-1), "end"]].map(([day, anchor]) => svg("text", { x: x(day), y: H - 4, "text-anchor": anchor }, day));
  const lines = series.filter(s => s.points.length).map(s => svg("g", { class: s.name },
    svg("polyline", { points: s.points.map(p => `${x(p.day).toFixed(1)},${y(p.value).toFixed(1)}`).join(" "), fill: "none" }),
    ...s.points.map(p => svg("circle", { cx: x(p.day).toFixed(1), cy: y(p.value).toFixed(1), r: 2.6 }, svg("title", {}, `${p.day}: ${s.name} ${Math.round(100 * p.value)} %`)))));
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title }, ...grid, ...ends, ...lines);
  const legend = el("figcaption", {}, series.map(s => el("span", { className: s.name }, el("i"), s.name)));
  return el("figure", { className: "chart" }, picture, legend);
}
