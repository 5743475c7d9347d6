"use strict";
// Keeps a page fresh: shows times in the viewer's zone, and when the replica has moved, fetches this page again and puts the new
// parts marked data-live in place of the old ones. Without this script every page works, it only stands still.

const POLL = 3000; // ms between looks at the sync status
const TICK = 10000; // ms between updates of ages

const pad = (number) => String(number).padStart(2, "0");

function localTime(at, seconds) {
  const day = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
  return `${day} ${pad(at.getHours())}:${pad(at.getMinutes())}${seconds ? `:${pad(at.getSeconds())}` : ""}`;
}

function age(at) {
  const seconds = Math.max(0, (Date.now() - at) / 1000);
  for (const [limit, unit, length] of [[10, "", 0], [90, "s", 1], [5400, "min", 60], [129600, "h", 3600], [Infinity, "days", 86400]]) {
    if (seconds < limit) return length ? `${Math.round(seconds / length)} ${unit} ago` : "just now";
  }
}

function showTimes(root, kind) {
  for (const time of root.querySelectorAll(kind ? `time[data-show=${kind}]` : "time")) {
    const at = new Date(time.dateTime);
    time.textContent = time.dataset.show === "age" ? age(at) : localTime(at, time.dataset.show === "second");
  }
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (answer.redirected) return location.reload(); // signed out
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const focused = document.activeElement && document.activeElement.id;
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(part.id);
    if (!next) continue;
    showTimes(next);
    part.replaceWith(document.adoptNode(next));
  }
  if (focused && document.activeElement.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

async function poll(line, seen) {
  try {
    const answer = document.hidden ? null : await fetch(line.dataset.status, { headers: { Accept: "application/json" } });
    if (answer && answer.status === 401) return location.reload();
    if (answer && answer.ok) {
      const { data } = await answer.json();
      const key = `${data.state} ${data.epoch}/${data.seq}`;
      if (key !== seen) await refresh();
      seen = key;
    }
  } catch {
    // The server is away for a moment: the page stays as it is, and the next look finds it again.
  }
  setTimeout(poll, POLL, line, seen);
}

showTimes(document);
setInterval(showTimes, TICK, document, "age");
const line = document.getElementById("replication");
if (line) setTimeout(poll, POLL, line, line.dataset.key);
