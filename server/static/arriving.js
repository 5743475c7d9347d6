// The page of the first copy: its bar moves, and when the copy is here the page is fetched again, which leads to the office.

const EVERY = 500; // ms

const sheet = document.getElementById("arrival");

function amount(bytes) {
  for (const unit of ["B", "kB", "MB"]) {
    if (bytes < 1000) return unit === "B" ? `${bytes} B` : `${bytes.toFixed(1)} ${unit}`;
    bytes /= 1000;
  }
  return `${bytes.toFixed(1)} GB`;
}

function show([done, total]) {
  const bar = document.getElementById("arrived");
  if (!bar) return;
  if (total) {
    bar.max = total;
    bar.value = done;
  }
  document.getElementById("amount").textContent = total ? `${amount(done)} of ${amount(total)} have arrived.` : `${amount(done)} have arrived.`;
}

async function look() {
  try {
    const answer = await fetch(sheet.dataset.source, { headers: { Accept: "application/json" } });
    const { data } = await answer.json();
    if (data.arrived || data.said !== sheet.dataset.said) return location.reload();
    if (data.progress?.[0]) show(data.progress);
  } catch {
    // the server is away for a moment: the next look finds it again
  }
  setTimeout(look, EVERY);
}

if (sheet) setTimeout(look, EVERY);
