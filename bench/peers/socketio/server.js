// A chat with Socket.IO: a room for each user, acknowledgements, and with DATABASE an INSERT before each of them.
//
//   PORT=8000 PROCESSES=2 DATABASE=/directory/of/the/socket node server.js

const cluster = require("node:cluster");
const http = require("node:http");
const { createAdapter, setupPrimary } = require("@socket.io/cluster-adapter");
const { Pool } = require("pg");
const { Server } = require("socket.io");

const port = Number(process.env.PORT);
const processes = Number(process.env.PROCESSES);
const POOL = 16; // connections over all processes

function serve() {
  const server = http.createServer();
  const io = new Server(server, { transports: ["websocket"], perMessageDeflate: false, serveClient: false });
  if (processes > 1) io.adapter(createAdapter());
  const pool = process.env.DATABASE
    ? new Pool({ host: process.env.DATABASE, user: "hubbub", database: "hubbub", max: POOL / processes })
    : null;

  const store = (sender, { recipient, content }) =>
    pool.query({
      name: "insert", // prepared once for each connection
      text: "INSERT INTO messages (sender, recipient, content) VALUES ($1, $2, $3) RETURNING id",
      values: [sender, recipient ?? null, content],
    });

  io.on("connection", (socket) => {
    const sender = socket.handshake.query.username;
    socket.join(sender);
    socket.on("send", async (message, acknowledge) => {
      if (pool) await store(sender, message);
      const target = message.recipient ? io.to(message.recipient) : socket.broadcast;
      target.emit("message", { sender, ...message });
      acknowledge();
    });
  });
  server.listen(port, "127.0.0.1", 4096, () => console.log("ready"));
}

if (processes > 1 && cluster.isPrimary) {
  // WebSocket only, so nothing has to be sticky.
  setupPrimary();
  for (let i = 0; i < processes; i++) cluster.fork();
} else {
  serve();
}
