// Keeps the list as it is now: a small list is compared often, the page is read when it differs.

const PERIOD = 3000;
const list = document.getElementById("streams");
const error = document.getElementById("error");
let known = null;

async function refresh() {
  const streams = await text("/streams.json");
  if (streams !== known) {
    const page = new DOMParser().parseFromString(await text("/"), "text/html");
    list.replaceChildren(...page.getElementById("streams").childNodes);
    known = streams;
  }
}

async function text(path) {
  const response = await fetch(path, { cache: "no-store" });
  if (!response.ok) throw new Error(`the server says ${response.status}`);
  return response.text();
}

async function tick() {
  if (!document.hidden) {
    const failure = await refresh().catch((failure) => failure);
    error.hidden = !failure;
    error.textContent = failure ? `This list may be old: ${failure.message}.` : "";
  }
  setTimeout(tick, PERIOD);
}

tick();
