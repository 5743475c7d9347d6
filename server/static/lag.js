// The plot of how far the replica is behind: the last hour from the server, and from then on what the status events tell.

const HEIGHT = 220; // px
const REDRAW = 5000; // ms after which the right edge moves on though nothing is told

const box = document.getElementById("lag");
const said = document.getElementById("lag-now");

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

async function begin() {
  const answer = await fetch(box.dataset.source, { headers: { Accept: "application/json" } });
  if (!answer.ok) return;
  const { kept, at, changes, seconds } = (await answer.json()).data;
  const data = [at, changes, seconds];
  document.getElementById("no-plot").hidden = true;
  let plot = draw(data, kept);
  box.dataset.points = at.length;

  function move() {
    const now = Date.now() / 1000;
    while (at.length && at[0] < now - kept) data.forEach((column) => column.shift());
    plot.setData(data);
    box.dataset.points = at.length;
  }

  function add(status) {
    const last = at.at(-1) ?? 0, now = Math.max(status.at ?? Date.now() / 1000, last);
    const stale = status.state === "stale";
    at.push(now);
    changes.push(stale ? null : status.lag_changes);
    seconds.push(status.lag_seconds);
    said.textContent = stale ? "The Pi is silent: what it has written since is not known." : words(status);
    move();
  }

  function redraw() {
    plot.destroy();
    plot = draw(data, kept);
  }

  document.addEventListener("office:status", (event) => add(event.detail));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(() => { if (box.clientWidth) plot.setSize({ width: box.clientWidth, height: HEIGHT }); }).observe(box);
  setInterval(move, REDRAW);
}

function words(status) {
  if (status.lag_changes === null) return "";
  return status.lag_changes === 0 ? "Now: up to date." : `Now: ${status.lag_changes} changes behind.`;
}

function clock(at, seconds) {
  const time = new Date(at * 1000), two = (number) => String(number).padStart(2, "0");
  return `${two(time.getHours())}:${two(time.getMinutes())}${seconds ? `:${two(time.getSeconds())}` : ""}`;
}

function draw(data, kept) {
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
  const from0 = (plot, low, high) => [0, Math.max(high ?? 0, 1)];
  const points = { show: (plot, series, first, last) => last - first < 120, size: 4 };
  return new uPlot({
    width: box.clientWidth, height: HEIGHT, legend: { live: true },
    scales: {
      x: { range: () => { const now = Date.now() / 1000; return [now - kept, now]; } },
      changes: { range: from0 }, seconds: { range: from0 },
    },
    series: [
      { label: "time", value: (plot, at) => at ? clock(at, true) : "–" },
      { label: "changes behind", scale: "changes", stroke: colour("--busy"), width: 2, points },
      { label: "seconds behind", scale: "seconds", stroke: colour("--warn"), width: 1, dash: [6, 4], points: { show: false }, value: (plot, value) => value?.toFixed(1) ?? "–" },
    ],
    axes: [{ ...axis, values: (plot, ticks) => ticks.map((at) => clock(at, false)) }, { ...axis, scale: "changes", label: "changes", labelSize: 18, size: 54 }, { ...axis, scale: "seconds", side: 1, label: "seconds", labelSize: 18, size: 54, grid: { show: false } }],
  }, data, box);
}

if (box && typeof uPlot !== "undefined") begin();
