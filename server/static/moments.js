// Times are typed as the viewer's clock shows them; the form sends them in UTC, as the tables hold them. Without this script they are
// typed in UTC, and the label says so.

import { localTime } from "./times.js";

const MINUTE = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?$/;

// `text` read in one zone and written in the other; what is no time stays as it is, for the server to say what is wrong with it.
function moved(text, zone, written) {
  const found = MINUTE.exec(text.trim());
  const at = found && new Date(`${found[1]}T${found[2]}${found[3] ?? ":00"}${zone}`);
  return found && !Number.isNaN(at.valueOf()) ? written(at, Boolean(found[3])) : text;
}

const inUtc = (at, seconds) => at.toISOString().slice(0, seconds ? 19 : 16).replace("T", " ");

for (const field of document.querySelectorAll("input[data-zone=UTC]")) {
  field.value = moved(field.value, "Z", localTime);
  for (const zone of field.labels[0].querySelectorAll(".zone")) zone.textContent = "(your time)";
  field.form.addEventListener("formdata", ({ formData }) => formData.set(field.name, moved(field.value, "", inUtc)));
}
