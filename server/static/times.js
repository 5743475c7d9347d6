// Times as the viewer's clock shows them. The server writes them in UTC, data-show says how: minute, second, age ("3 min ago") or span
// ("3 min", of what lasts).

const TICK = 1000; // ms

const pad = (number) => String(number).padStart(2, "0");

export function localTime(at, seconds) {
  const day = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
  return `${day} ${pad(at.getHours())}:${pad(at.getMinutes())}${seconds ? `:${pad(at.getSeconds())}` : ""}`;
}

function span(seconds) {
  for (const [limit, unit, length] of [[90, "s", 1], [5400, "min", 60], [129600, "h", 3600]]) {
    if (seconds < limit) return `${Math.round(seconds / length)} ${unit}`;
  }
  return `${Math.round(seconds / 86400)} days`;
}

function age(seconds) {
  return seconds < 10 ? "just now" : `${span(seconds)} ago`;
}

function textOf(time) {
  const at = new Date(time.dateTime), passed = Math.max(0, (Date.now() - at) / 1000);
  if (time.dataset.show === "age") return age(passed);
  if (time.dataset.show === "span") return span(passed);
  return localTime(at, time.dataset.show === "second");
}

// All times below `root`, or those that grow.
export function showTimes(root, growing = false) {
  for (const time of root.querySelectorAll(growing ? "time[data-show=age], time[data-show=span]" : "time")) {
    const text = textOf(time);
    if (time.textContent !== text) time.textContent = text;
  }
}

export function keepTimes() {
  showTimes(document);
  setInterval(showTimes, TICK, document, true);
}
