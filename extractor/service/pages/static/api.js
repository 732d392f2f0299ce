// What every page does: speak to the API, make elements, say what happened.

export const csrf = document.querySelector("meta[name=csrf]").content;

/** A problem that the API answered (RFC 9457). */
export class Problem extends Error {
  constructor(status, { title = "It did not work", detail = `The service, or what stands before it, answered ${status}.`, errors = [], type = "" }) {
    super(detail);
    Object.assign(this, { status, title, errors, kind: type.split(":").at(-1) });
  }
}

export let ended = false; // the session, and with it what can be done here

/** The answer to a request as JSON, null where there is none. Throws Problem; leaves for the way in where the session has ended. */
export async function api(method, path, body, { headers = {}, ...options } = {}) {
  const json = body !== undefined && !(body instanceof Blob);
  const unless = (error, problem) => { throw error.name === "AbortError" ? error : problem; };
  const response = await fetch(path, {
    method, ...options,
    headers: { "X-CSRF-Token": csrf, ...(json && { "Content-Type": "application/json" }), ...headers },
    body: json ? JSON.stringify(body) : body,
  }).catch(error => unless(error, new Problem(0, { title: "No connection", detail: "The service cannot be reached. Nothing is lost; try again." })));
  if (response.status === 401 && location.pathname !== "/sign-in") {
    ended = true;
    location.assign(`/sign-in?ended&to=${encodeURIComponent(location.pathname + location.search)}`);
    await new Promise(() => {}); // the page is being left
  }
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
  return response.status === 204 ? null : response.json().catch(error => unless(error, new Problem(response.status, {})));
}

export const $ = selector => document.querySelector(selector);

/** An element; properties that are no properties of it become attributes, and text is only ever text. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "dataset" || name === "style") for (const [k, v] of Object.entries(value)) name === "style" ? made.style.setProperty(k, v) : made.dataset[k] = v;
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return made;
}

export function toast(message) {
  const shown = el("p", {}, message);
  $("#toasts").append(shown);
  setTimeout(() => shown.remove(), 6000);
}

/** Say a problem where it belongs, or as a toast. */
export function say(problem, place) {
  if (!(problem instanceof Problem)) throw problem;
  const lines = problem.errors.length > 1 ? problem.errors : [problem.message];
  if (!place) return toast(`${problem.title}: ${lines[0]}`);
  place.replaceChildren(el("strong", {}, problem.title), el("br"), ...lines.flatMap(line => [line, el("br")]).slice(0, -1));
  place.hidden = false;
}

const PAUSE = 1500; // milliseconds between two looks

/** A look at once, and again as long as it says that there is more to see; after problems, too, of which it says the first. */
export function watching(look) {
  let turn = 0, failed = false;
  return async function again() {
    const mine = ++turn;
    let more = true;
    try {
      more = await look();
      failed = false;
    } catch (problem) {
      if (!failed) say(problem);
      failed = true;
    }
    if (more) setTimeout(() => { if (mine === turn) again(); }, PAUSE);
  };
}

export const key = category => (category ?? "").trim().toLowerCase(); // by which categories are compared
export const number = n => n.toLocaleString("en");

$("#sign-out")?.addEventListener("click", async () => {
  try {
    await api("DELETE", "/v1/session");
    location.assign("/sign-in");
  } catch (problem) { say(problem); }
});
