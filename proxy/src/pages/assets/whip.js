// Publishes the camera and the microphone by WebRTC.

import { play, run } from "./page.js";
import { connect, signalling } from "./rtc.js";

run({
  verb: "Publish",
  locate: signalling("whip"),
  async start(context) {
    const { video, signal } = context;
    if (!isSecureContext) {
      throw new Error("Browsers give the camera to pages of https: or of localhost alone, and this is neither.");
    }
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true }).catch((error) => {
      throw new Error(`Camera and microphone: ${error.message}`);
    });
    const release = () => {
      for (const track of stream.getTracks()) track.stop();
      video.srcObject = null;
    };
    if (signal.aborted) return release();
    signal.addEventListener("abort", release);
    video.muted = true;
    video.srcObject = stream;
    play(video);
    const connection = new RTCPeerConnection();
    for (const track of stream.getTracks()) {
      connection.addTransceiver(track, { direction: "sendonly", streams: [stream] });
    }
    await connect(connection, context);
  },
});
