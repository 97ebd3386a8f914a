// FLV and MPEG-TS over HTTP, by mpegts.js.

import { media, play, refusal, run } from "./page.js";

const { mpegts } = globalThis;

run({
  verb: "Play",
  locate: media(".flv"),
  start({ video, url, signal, fail, rate }) {
    if (!mpegts?.isSupported()) throw new Error("This browser has no Media Source Extensions: try HLS.");
    const type = url.pathname.endsWith(".ts") ? "mpegts" : "flv";
    const player = mpegts.createPlayer({ type, isLive: true, url: url.href }, {
      // A player that has fallen behind catches up by playing faster.
      liveSync: true,
      liveSyncMaxLatency: 3,
      liveSyncTargetLatency: 1.5,
      lazyLoad: false,
      autoCleanupSourceBuffer: true,
    });
    signal.addEventListener("abort", () => player.destroy());
    player.on(mpegts.Events.ERROR, (_type, detail, info) => fail(words(detail, info)));
    player.on(mpegts.Events.LOADING_COMPLETE, () => fail("The stream has ended."));
    player.on(mpegts.Events.STATISTICS_INFO, ({ speed }) => rate(speed * 1024 * 8));
    player.attachMediaElement(video);
    player.load();
    play(video);
  },
});

function words(detail, info) {
  return info?.code > 0 ? refusal(info.code, info.msg) : `${detail}: ${info?.msg ?? ""}`;
}
