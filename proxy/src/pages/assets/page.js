// What the pages with a video share: which stream, start and stop, and what is shown of it.

const OWN_PARAMETERS = ["app", "stream", "url", "autostart"];
// Milliseconds without media until that is worth a word.
const PATIENCE = 5000;
const EXTENSIONS = /\.(flv|ts|m3u8|mpd)$/;

const query = new URLSearchParams(location.search);
const video = document.querySelector("video");
const form = document.querySelector("form");
const button = document.querySelector("button");
const at = (id) => document.getElementById(id);

/// Runs the page. `locate(app, stream)` is the path of a stream, with what else the page's own
/// query says behind it. `start` gets the video, the URL, a signal that ends the attempt, `fail`
/// and `rate` (bits per second); what it throws is shown.
export function run({ verb, locate, start }) {
  let attempt = null;
  for (const name of ["app", "stream"]) {
    if (query.has(name)) form.elements[name].value = query.get(name);
  }
  const stop = () => {
    attempt?.abort();
    attempt = null;
    button.textContent = verb;
  };
  const fail = (text) => {
    stop();
    at("error").textContent = text;
    at("error").hidden = false;
    state("failed");
  };
  const go = () => {
    at("error").hidden = true;
    for (const fact of ["resolution", "time", "ahead", "bitrate"]) at(fact).textContent = "–";
    const mine = new AbortController();
    attempt = mine;
    button.textContent = "Stop";
    const unlessOver = (then) => (value) => mine.signal.aborted || then(value);
    const context = {
      video,
      signal: mine.signal,
      fail: unlessOver(fail),
      rate: unlessOver((bits) => (at("bitrate").textContent = inWords(bits))),
    };
    const attempted = async () => {
      context.url = wanted(locate);
      at("url").textContent = context.url.href;
      state("connecting");
      await start(context);
    };
    attempted().catch((error) => context.fail(error.message));
    // Some origins hold their answer until somebody publishes.
    const noMedia = unlessOver(() => video.readyState || state("no media yet: is it published?"));
    setTimeout(noMedia, PATIENCE);
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    query.delete("url");
    if (!attempt) return go();
    stop();
    state("stopped");
  });
  addEventListener("pagehide", stop);
  follow(() => attempt !== null);
  button.textContent = verb;
  if (query.get("autostart") === "true") {
    // Browsers start sound only on a click.
    video.muted = true;
    go();
  }
}

/// The path of a stream's media.
export const media = (extension) => (app, stream) => `/${encoded(app)}/${encoded(stream)}${extension}`;

/// Starts to play; a browser that wants a click first is no failure.
export function play(video) {
  video.play().catch((error) => error.name === "NotAllowedError" && state("press play in the picture"));
}

/// What a status of the server means for who wants to watch.
export function refusal(status, text) {
  const meaning = MEANINGS[status];
  return `The server says ${status} ${text ?? ""}`.trimEnd() + (meaning ? `: ${meaning}.` : ".");
}

const MEANINGS = {
  401: "this stream wants a name and a password",
  403: "this stream is not for everybody",
  404: "nobody publishes this stream, or its origin does not offer it in this form",
  502: "the stream's origin cannot be reached, or gave no valid answer",
  503: "there is no origin for this stream, or no room for it",
  504: "the stream's origin did not answer in time",
};

const encoded = (path) => path.split("/").filter(Boolean).map(encodeURIComponent).join("/");

function wanted(locate) {
  // Other hosts are none of this page's business, whatever a link to it says.
  if (query.has("url")) {
    const url = new URL(query.get("url"), location.origin);
    if (url.origin !== location.origin) throw new Error("Only streams of this server are played here.");
    return url;
  }
  const app = form.elements.app.value.trim() || "live";
  const stream = form.elements.stream.value.trim().replace(EXTENSIONS, "");
  if (!stream) throw new Error("Which stream?");
  const url = new URL(locate(app, stream), location.origin);
  for (const [name, value] of query) {
    if (!OWN_PARAMETERS.includes(name)) url.searchParams.append(name, value);
  }
  return url;
}

function follow(isAttempted) {
  const states = { waiting: "waiting for media", playing: "playing", pause: "paused", ended: "ended" };
  for (const [event, text] of Object.entries(states)) {
    video.addEventListener(event, () => isAttempted() && state(text));
  }
  setInterval(() => {
    const { videoWidth, videoHeight, currentTime, buffered } = video;
    if (videoWidth) at("resolution").textContent = `${videoWidth} × ${videoHeight}`;
    if (currentTime) at("time").textContent = `${currentTime.toFixed(1)} s`;
    if (buffered.length) {
      const ahead = buffered.end(buffered.length - 1) - currentTime;
      at("ahead").textContent = `${Math.max(ahead, 0).toFixed(1)} s`;
    }
  }, 250);
}

function state(text) {
  at("state").textContent = text;
}

function inWords(bits) {
  return bits < 1e6 ? `${(bits / 1e3).toFixed(0)} kbit/s` : `${(bits / 1e6).toFixed(2)} Mbit/s`;
}
