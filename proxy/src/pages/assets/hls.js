// HLS, by hls.js where the browser has Media Source Extensions, else by the browser itself.

import Hls from "./vendor/hls-1.7.4.light.min.mjs";
import { media, play, refusal, run } from "./page.js";

run({
  verb: "Play",
  locate: media(".m3u8"),
  start: (context) => (Hls.isSupported() ? byLibrary(context) : byBrowser(context)),
});

function byLibrary({ video, url, signal, fail, rate }) {
  const player = new Hls({
    lowLatencyMode: true,
    // A player that has fallen behind catches up by playing faster.
    maxLiveSyncPlaybackRate: 1.2,
    backBufferLength: 30,
  });
  signal.addEventListener("abort", () => player.destroy());
  let hasRecovered = false;
  player.on(Hls.Events.ERROR, (_event, error) => {
    if (!error.fatal) return;
    if (error.type === Hls.ErrorTypes.MEDIA_ERROR && !hasRecovered) {
      hasRecovered = true;
      player.recoverMediaError();
    } else {
      fail(words(error));
    }
  });
  player.on(Hls.Events.FRAG_BUFFERED, (_event, { stats, frag }) => {
    if (frag.duration) rate((stats.loaded * 8) / frag.duration);
  });
  player.loadSource(url.href);
  player.attachMedia(video);
  play(video);
}

function byBrowser({ video, url, signal, fail }) {
  if (!video.canPlayType("application/vnd.apple.mpegurl")) throw new Error("This browser plays no HLS.");
  video.addEventListener("error", () => fail(video.error?.message || "HLS failed."), { signal });
  signal.addEventListener("abort", () => {
    video.removeAttribute("src");
    video.load();
  });
  video.src = url.href;
  play(video);
}

function words({ details, response, reason, error }) {
  if (details === Hls.ErrorDetails.MANIFEST_PARSING_ERROR) return "This is no HLS playlist.";
  if (response?.code >= 400) return refusal(response.code, response.text);
  return `${details}: ${reason ?? error?.message ?? ""}`;
}
