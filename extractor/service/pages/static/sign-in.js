import { $, Problem, api, say } from "./api.js";

$("#ended").hidden = !new URLSearchParams(location.search).has("ended");
$("#sign-in").addEventListener("submit", async event => {
  event.preventDefault();
  const field = $("#key");
  try {
    if (!/^[\x21-\x7e]+$/.test(field.value.trim())) throw new Problem(401, { title: "No valid key", detail: "a key has no blanks and no accents; copy it as it was shown" });
    await api("POST", "/v1/session", undefined, { headers: { Authorization: `Bearer ${field.value.trim()}` } });
    const to = new URLSearchParams(location.search).get("to") ?? "/";
    location.assign(/^\/(?![/\\])/.test(to) ? to : "/"); // a path here, and no other site
  } catch (problem) {
    field.setAttribute("aria-invalid", "true");
    say(problem, $("#problem"));
    field.select();
  }
});
