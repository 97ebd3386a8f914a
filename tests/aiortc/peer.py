"""WebRTC peers of the tests, by aiortc, on the host whose address PEER_ADDRESS is.

    peer.py origin <HTTP port>       speaks WHIP and WHEP as SRS does, and relays each stream
    peer.py publish <URL> [<token>]  a picture and a tone, by WHIP
    peer.py play <URL> [<token>]     both, by WHEP

Each writes JSON, one object a line: what became of a session, and every second what it counted.
SIGTERM ends a client's session by DELETE, SIGINT by the DTLS alert alone. A client's media goes to
PEER_MEDIA, an address and a port, if that is there, and not where the answer says.
"""

import asyncio
import json
import os
import random
import re
import signal
import sys
import urllib.error
import urllib.parse
import urllib.request

import aioice.ice
import aiortc
import av
from aiortc.contrib.media import MediaRelay
from aiortc.mediastreams import MediaStreamError

ADDRESS = os.environ["PEER_ADDRESS"]
MEDIA = os.environ.get("PEER_MEDIA")
# aioice leaves loopback out.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [ADDRESS]


def say(event, **values):
    print(json.dumps({"event": event, **values}), flush=True)


def connection(name):
    """A connection whose states are told."""
    configuration = aiortc.RTCConfiguration(
        iceServers=[], bundlePolicy=aiortc.RTCBundlePolicy.MAX_BUNDLE
    )
    pc = aiortc.RTCPeerConnection(configuration)

    @pc.on("connectionstatechange")
    def _():
        say("state", session=name, state=pc.connectionState)

    return pc


def ufrag(sdp):
    """The first ICE user name fragment of a description."""
    for line in sdp.splitlines():
        if line.startswith("a=ice-ufrag:"):
            return line.partition(":")[2]
    raise ValueError("no ice-ufrag")


# --- origin


class Origin:
    """Streams by name: the tracks of one publisher, and who plays them."""

    def __init__(self):
        self.relay = MediaRelay()
        self.sessions = {}
        self.tracks = {}
        self.senders = {}

    async def answer(self, stream, plays, offer):
        """Answers an offer: the answer, and the session's name."""
        # Candidates of the client are of no use to an origin behind a proxy; SRS reads none either.
        lines = offer.splitlines(keepends=True)
        useless = ("a=candidate:", "a=end-of-candidates")
        sdp = "".join(line for line in lines if not line.startswith(useless))
        pc = connection(f"{'play' if plays else 'publish'} {stream}")
        pc.on("track", lambda track: self.publish(stream, track))
        await pc.setRemoteDescription(aiortc.RTCSessionDescription(sdp, "offer"))
        if plays:
            for transceiver in pc.getTransceivers():
                transceiver.direction = "sendonly"
                self.senders.setdefault((stream, transceiver.kind), []).append(transceiver.sender)
                self.feed(stream, transceiver.kind)
        await pc.setLocalDescription(await pc.createAnswer())
        sdp = pc.localDescription.sdp
        name = f"{ufrag(sdp)}:{ufrag(offer)}"
        self.sessions[name] = pc
        pc.on("connectionstatechange", lambda: self.forget_the_closed(name))
        return sdp, name

    def publish(self, stream, track):
        self.tracks[stream, track.kind] = track
        self.feed(stream, track.kind)

    def feed(self, stream, kind):
        """Gives the publisher's track to the players that have none or an older one."""
        track = self.tracks.get((stream, kind))
        if track is None or track.readyState != "live":
            return
        for sender in self.senders.get((stream, kind), []):
            if sender.track is None or sender.track.source is not track:
                copy = self.relay.subscribe(track)
                copy.source = track
                sender.replaceTrack(copy)

    def forget_the_closed(self, name):
        pc = self.sessions.get(name)
        if pc is not None and pc.connectionState in ("closed", "failed"):
            del self.sessions[name]

    async def end(self, name):
        pc = self.sessions.pop(name, None)
        if pc is not None:
            await pc.close()

    async def serve(self, reader, writer):
        """One request and its answer, as SRS says it."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *fields = head.split("\r\n")
        method, target, _ = first.split(" ")
        fields = dict(line.lower().split(": ", 1) for line in fields if ": " in line)
        body = (await reader.readexactly(int(fields.get("content-length", 0)))).decode()
        url = urllib.parse.urlsplit(target)
        query = {name: value[0] for name, value in urllib.parse.parse_qs(url.query).items()}
        stream = f"{query.get('app', 'live')}/{query.get('stream', 'livestream')}"
        endpoint = url.path.strip("/").removeprefix("rtc/v1/")
        say("request", method=method, target=target)
        status, lines, answer = "404 Not Found", [], ""
        if endpoint in ("whip", "whep"):
            if method == "POST":
                answer, name = await self.answer(stream, endpoint == "whep", body)
                app, _, lone = stream.partition("/")
                resource = urllib.parse.urlencode(
                    {"action": "delete", "app": app, "stream": lone, "session": name}, safe=":/"
                )
                status = "201 Created"
                lines = [
                    "Content-Type: application/sdp",
                    f"Location: /rtc/v1/{endpoint}/?{resource}",
                    f'ETag: "{name}"',
                    'Link: <stun:stun.invalid>; rel="ice-server"',
                ]
            elif method == "DELETE":
                await self.end(query.get("session"))
                status = "200 OK"
            elif method == "PATCH":
                status = "204 No Content"
        elif url.path == "/sessions":
            status, answer = "200 OK", json.dumps(sorted(self.sessions))
        lines += [f"Content-Length: {len(answer)}"] if status[:3] != "204" else []
        head = [f"HTTP/1.1 {status}", *lines, "Connection: close", "", answer]
        writer.write("\r\n".join(head).encode())
        await writer.drain()
        writer.close()

    async def run(self, port):
        server = await asyncio.start_server(self.serve, ADDRESS, port)
        say("listens", port=port)
        async with server:
            await server.serve_forever()


# --- clients


class Picture(aiortc.VideoStreamTrack):
    """A grey picture that changes with every frame."""

    def __init__(self):
        super().__init__()
        self.frames = 0

    async def recv(self):
        pts, time_base = await self.next_timestamp()
        frame = av.VideoFrame(160, 120, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([self.frames % 256]) * plane.buffer_size)
        frame.pts, frame.time_base = pts, time_base
        self.frames += 1
        return frame


class Tone(aiortc.AudioStreamTrack):
    """Noise: silence would be as good, but is the one sound that a broken decoder makes as well."""

    def __init__(self):
        super().__init__()
        self.frames = 0

    async def recv(self):
        frame = await super().recv()
        noise = random.Random(self.frames).randbytes(frame.planes[0].buffer_size)
        frame.planes[0].update(noise)
        self.frames += 1
        return frame


class Sink:
    """Counts the decoded frames of a track until its end."""

    def __init__(self, track):
        self.frames = 0
        # The event loop alone would not keep it.
        self.task = asyncio.ensure_future(self.run(track))

    async def run(self, track):
        try:
            while True:
                await track.recv()
                self.frames += 1
        except MediaStreamError:
            pass


def ask(method, url, token, body=None):
    """A request and its answer of any status: status, headers, body."""
    request = urllib.request.Request(url, body, method=method)
    if body is not None:
        request.add_header("Content-Type", "application/sdp")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.headers, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


async def client(mode, url, token):
    leave = asyncio.Event()
    by_delete = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: (by_delete.append(1), leave.set()))
    loop.add_signal_handler(signal.SIGINT, leave.set)

    pc = connection(mode)
    counted = {}
    if mode == "publish":
        for track in (Picture(), Tone()):
            counted[track.kind] = track
            pc.addTransceiver(track, direction="sendonly")
    else:
        pc.on("track", lambda track: counted.__setitem__(track.kind, Sink(track)))
        for kind in ("video", "audio"):
            pc.addTransceiver(kind, direction="recvonly")
    await pc.setLocalDescription(await pc.createOffer())
    offer = pc.localDescription.sdp.encode()
    status, headers, body = await asyncio.to_thread(ask, "POST", url, token, offer)
    say("answer", status=status, headers=dict(headers.items()), body=body)
    if status == 201:
        resource = urllib.parse.urljoin(url, headers["Location"])
        if MEDIA:
            body = re.sub(r"(a=candidate:(?:\S+ ){4})\S+ \S+", rf"\g<1>{MEDIA}", body)
        await pc.setRemoteDescription(aiortc.RTCSessionDescription(body, "answer"))
        while not leave.is_set() and pc.connectionState not in ("closed", "failed"):
            say("counters", **await counters(pc, counted))
            try:
                await asyncio.wait_for(leave.wait(), 1)
            except asyncio.TimeoutError:
                pass
        if by_delete:
            status, _, _ = await asyncio.to_thread(ask, "DELETE", resource, token)
            say("deleted", status=status)
    await pc.close()


async def counters(pc, counted):
    """RTP packets and decoded or encoded frames so far, by kind."""
    packets, lost = {}, {}
    for report in (await pc.getStats()).values():
        if report.type == "inbound-rtp":
            packets[report.kind] = report.packetsReceived
            lost[report.kind] = report.packetsLost
        elif report.type == "outbound-rtp":
            packets[report.kind] = report.packetsSent
    frames = {kind: source.frames for kind, source in counted.items()}
    return {"packets": packets, "lost": lost, "frames": frames}


if __name__ == "__main__":
    mode, where, *token = sys.argv[1:]
    if mode == "origin":
        asyncio.run(Origin().run(int(where)))
    else:
        asyncio.run(client(mode, where, *token or [None]))
