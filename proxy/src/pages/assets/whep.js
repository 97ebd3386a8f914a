// Plays WebRTC.

import { play, run } from "./page.js";
import { connect, signalling } from "./rtc.js";

run({
  verb: "Play",
  locate: signalling("whep"),
  async start(context) {
    const { video, signal } = context;
    const connection = new RTCPeerConnection();
    const stream = new MediaStream();
    for (const kind of ["audio", "video"]) connection.addTransceiver(kind, { direction: "recvonly" });
    connection.addEventListener("track", ({ track }) => stream.addTrack(track));
    signal.addEventListener("abort", () => (video.srcObject = null));
    video.srcObject = stream;
    await connect(connection, context);
    play(video);
  },
});
