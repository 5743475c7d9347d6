// Fetching this page again, at most ten times a second however much is told, and putting what differs in place.

import { isSending, reload } from "./once.js";
import { putInPlace } from "./parts.js";

const PAUSE = 100; // ms between the beginnings of two fetches

// on.answered and on.failed are told whether the server was there; `retry` is the pause (ms) after a vain try.
export function refresher(on, retry) {
  let newest = 0; // seq of the newest change that we were told of
  let anew = false; // whether to fetch whatever seq is shown
  let quiet = false; // whether nothing is to be marked, since all may be different
  let timer = null, running = false, next = 0;

  const shown = () => Number(document.getElementById("replication")?.dataset.seq ?? 0);

  function arm() {
    if (timer !== null || running || document.hidden || isSending() || !(anew || newest > shown())) return;
    timer = setTimeout(run, Math.max(0, next - performance.now()));
  }

  async function run() {
    const began = performance.now(), unmarked = quiet;
    timer = null;
    if (isSending()) return;
    running = true;
    newest = 0; // what is told from here on may be missing in the answer; what was told before is in it
    anew = quiet = false;
    try {
      await fetchParts(unmarked, on);
      next = began + Math.max(PAUSE, 2 * (performance.now() - began) - PAUSE); // a server that is slow is left alone for as long
    } catch {
      anew = true;
      next = performance.now() + retry;
    }
    running = false;
    arm();
  }

  return {
    fetchUpTo: (seq) => { newest = Math.max(newest, seq); arm(); },
    fetchAnew: (unmarked = false) => { anew = true; quiet ||= unmarked; arm(); },
    goOn: arm,
  };
}

async function fetchParts(quiet, on) {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } }).catch((reason) => { on.failed(); throw reason; });
  on.answered();
  if (answer.redirected || answer.status === 404) return reload(); // signed out; or what the page shows is gone
  if (!answer.ok) throw new Error(answer.statusText);
  putInPlace(new DOMParser().parseFromString(await answer.text(), "text/html"), quiet);
}
