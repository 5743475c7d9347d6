// Keeps a page fresh. What is new is told over a socket, and where there is none the page looks every few seconds; either way the page
// is fetched again and what differs is put in place. Without this script every page works, it only stands still.

import { connection } from "./connection.js";
import { listen } from "./socket.js";
import { reload, sendOnce } from "./once.js";
import { keepTimes } from "./times.js";
import { refresher } from "./refresh.js";

const POLL = 3000; // ms between looks at the sync status without a socket
const CHECK = 30000; // ms between looks with one: what is told is a hint, and a hint may be lost

const TICK = 1000; // ms between two looks at the clock
const LEAVING = 500; // ms that a page which signs out has to be gone

const line = document.getElementById("replication");
const statusAddress = line?.dataset.status;

function follow() {
  const shown = connection(POLL);
  const page = refresher(shown, POLL);
  let looked = performance.now(), looking = false;

  function judge(status) {
    const now = document.getElementById("replication").dataset;
    document.dispatchEvent(new CustomEvent("office:status", { detail: status }));
    const verified = `${status.verifying ?? ""} ${status.last_verify_at ?? ""}` !== now.verify;
    const moved = status.state !== now.state || (status.epoch && status.epoch !== now.epoch) || verified;
    const alarmed = Boolean(status.alarm) !== document.getElementById("replication").classList.contains("alarm");
    if (moved || alarmed || String(status.lag_changes ?? 0) !== now.behind || status.state === "bootstrapping") page.fetchAnew();
    else if (status.seq !== null) page.fetchUpTo(status.seq);
  }

  async function look() {
    if (looking || document.hidden) return;
    looking = true;
    looked = performance.now();
    try {
      const answer = await fetch(statusAddress, { headers: { Accept: "application/json" } });
      if (answer.status === 401) return reload(); // signed out
      if (answer.ok) judge((await answer.json()).data);
      if (shown.answered() && socket) socket.comeBack();
    } catch {
      shown.failed(); // the server is away for a moment: the page stays as it is, and the next look finds it again
    } finally {
      looking = false;
    }
  }

  function wake() {
    if (document.hidden) return;
    page.goOn();
    look();
    socket?.comeBack();
  }

  const socket = listen({
    status: judge,
    changed: page.fetchUpTo,
    reload: () => page.fetchAnew(true),
    signedOut: () => setTimeout(page.fetchAnew, LEAVING), // which leads to the login, unless this page did it and is on its way there
    refused: () => page.fetchAnew(), // likewise, unless there are only too many sockets
    up: () => shown.linked(true),
    down: () => { shown.linked(false); look(); },
  });
  setInterval(() => {
    if (performance.now() - looked >= (socket?.isUp() ? CHECK : POLL) - TICK / 2) look();
  }, TICK);
  document.addEventListener("visibilitychange", wake);
  document.addEventListener("resume", wake);
  addEventListener("online", wake);
  addEventListener("pageshow", (event) => { if (event.persisted) wake(); });
  addEventListener("pagehide", () => socket?.leave()); // a page with an open socket is not kept for the back button
}

keepTimes();
sendOnce();
if (line) follow();
