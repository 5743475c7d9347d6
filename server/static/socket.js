// The socket over which the server tells what is new. `io` comes from socket.io.min.js; where that or the socket is missing, nothing
// here ever says "up", and the page looks by itself.

const LONGEST_PAUSE = 30000; // ms between two tries at most
const PATIENCE = 5000; // ms that a try may take

// on: {status, changed, reload, signedOut, refused, up, down}. `changed` gets the seq of the newest change that is told of.
export function listen(on) {
  if (typeof io === "undefined") return null;
  const socket = io({ transports: ["websocket"], timeout: PATIENCE, reconnectionDelay: 500, reconnectionDelayMax: LONGEST_PAUSE });
  socket.on("connect", on.up);
  socket.on("disconnect", (reason) => { if (reason !== "io client disconnect") on.down(); });
  socket.on("connect_error", () => {
    if (socket.active) return; // it tries again by itself
    on.refused();
    setTimeout(() => socket.connect(), LONGEST_PAUSE);
  });
  socket.on("status", on.status);
  socket.on("reload", on.reload);
  socket.on("signed-out", on.signedOut);
  socket.onAny((event, told) => {
    const seq = told?.last ?? told?.seq;
    if (event !== "status" && event !== "reload" && typeof seq === "number") on.changed(seq);
  });
  return {
    isUp: () => socket.connected,
    leave: () => socket.disconnect(),
    comeBack: () => { // at once, not after the pause that has grown meanwhile
      if (!socket.connected && socket.io.engine?.readyState !== "opening") socket.disconnect().connect();
    },
  };
}
