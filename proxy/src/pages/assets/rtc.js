// WHIP (RFC 9725) and WHEP: an offer goes up by POST, the answer comes back, DELETE ends it.

const GATHERING = 1000;
const STATISTICS = 1000;

/// The path of a stream at the endpoint of this name.
export const signalling = (name) => (app, stream) =>
  `/rtc/v1/${name}/?${new URLSearchParams({ app, stream })}`;

/// Connects what was added to `connection`; a signal closes it and ends the server's side.
export async function connect(connection, { url, signal, fail, rate }) {
  signal.addEventListener("abort", () => connection.close());
  connection.addEventListener("connectionstatechange", () => {
    if (connection.connectionState === "failed") fail("The connection for media has failed.");
  });
  await connection.setLocalDescription();
  await gathered(connection);
  if (signal.aborted) return;
  // Not aborted with the rest: only the answer tells how a session that has begun is ended.
  const response = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/sdp" },
    body: connection.localDescription.sdp,
  });
  const resource = response.ok && response.headers.get("Location");
  const end = () => resource && remove(new URL(resource, response.url));
  signal.addEventListener("abort", end);
  if (signal.aborted) return end();
  const answer = await response.text();
  if (signal.aborted) return;
  if (!response.ok || !answer.startsWith("v=0")) {
    throw new Error(`The server says ${response.status} ${response.statusText}: ${words(answer)}`.trim());
  }
  await connection.setRemoteDescription({ type: "answer", sdp: answer });
  measure(connection, signal, rate);
}

/// What a refusal says: its `error`, if it is in JSON that has one, or all of it.
function words(answer) {
  try {
    return JSON.parse(answer).error ?? answer.slice(0, 500);
  } catch {
    return answer.slice(0, 500);
  }
}

async function gathered(connection) {
  if (connection.iceGatheringState === "complete") return;
  await new Promise((done) => {
    connection.addEventListener("icegatheringstatechange", () => {
      if (connection.iceGatheringState === "complete") done();
    });
    setTimeout(done, GATHERING);
  });
}

function remove(resource) {
  // The server finds out by itself if this does not reach it.
  fetch(resource, { method: "DELETE", keepalive: true }).catch(() => {});
}

function measure(connection, signal, rate) {
  let before = null;
  const timer = setInterval(async () => {
    let bytes = 0;
    for (const report of (await connection.getStats()).values()) {
      if (report.type === "inbound-rtp") bytes += report.bytesReceived;
      if (report.type === "outbound-rtp") bytes += report.bytesSent;
    }
    if (before !== null) rate(((bytes - before) * 8 * 1000) / STATISTICS);
    before = bytes;
  }, STATISTICS);
  signal.addEventListener("abort", () => clearInterval(timer));
}
