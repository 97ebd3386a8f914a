// An origin of the tests: `node origin.js <RTMP port> <HTTP port>`, on loopback.

const { Server } = require('node:net');
const NodeMediaServer = require('node-media-server');

// It would listen on every address of the machine.
const { listen } = Server.prototype;
Server.prototype.listen = function (port, ...rest) {
  return listen.call(this, port, '127.0.0.1', ...rest);
};

const [rtmp, http] = process.argv.slice(2).map(Number);
new NodeMediaServer({
  logType: 3,
  rtmp: { port: rtmp, chunk_size: 4096, gop_cache: true, ping: 30, ping_timeout: 60 },
  http: { port: http, allow_origin: '*', mediaroot: '.' },
}).run();
