// Putting a freshly fetched page in place of the one that is shown. Only what differs is touched: elements stay, and with them focus,
// selection and scroll. Rows are told apart by data-key; data-own is for the script alone; in data-quiet nothing is marked.

import { showTimes } from "./times.js";

const MARKED = 2000; // ms that a change stays marked
const CELLS = "tbody td, tbody th, dd, .chips small";

export function putInPlace(fresh, quiet) {
  const focused = document.activeElement?.id;
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(part.id);
    if (!next) continue;
    showTimes(next);
    mend(part, next, quiet);
  }
  if (focused && document.activeElement.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function mend(old, fresh, quiet) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (old.hasAttribute("data-own")) return;
  const hush = quiet || old.hasAttribute("data-quiet");
  const before = !hush && old.matches(CELLS) ? words(old) : null;
  copyAttributes(old, fresh);
  mendChildren(old, fresh, hush);
  if (before !== null && words(old) !== before) mark(old, "changed");
}

function copyAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "data-mark") old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
}

function mendChildren(old, fresh, quiet) {
  const here = new Map(); // name: the children of that name, in order
  for (const child of old.childNodes) {
    const name = nameOf(child);
    if (here.has(name)) here.get(name).push(child);
    else here.set(name, [child]);
  }
  const wanted = [...fresh.childNodes].map((child) => [child, here.get(nameOf(child))?.shift()]);
  for (const left of here.values()) for (const child of left) child.remove();
  let place = old.firstChild;
  for (const [child, known] of wanted) {
    if (known) {
      if (known === place) place = place.nextSibling;
      else old.insertBefore(known, place);
      mend(known, child, quiet);
    } else {
      const added = old.insertBefore(document.adoptNode(child), place);
      if (!quiet && added.nodeName === "TR") mark(added, "new");
    }
  }
}

function nameOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? `${node.nodeName} ${node.dataset.key ?? node.id}` : node.nodeName;
}

// What stands in an element, without the times that only get older.
function words(element) {
  let text = element.textContent;
  for (const time of element.querySelectorAll("time[data-show=age], time[data-show=span]")) text = text.replace(time.textContent, "");
  return text;
}

// A mark that is there already is not begun again: what changes ten times a second must not flicker.
function mark(element, kind) {
  if (element.dataset.mark) return;
  element.dataset.mark = kind;
  setTimeout(() => element.removeAttribute("data-mark"), MARKED);
}
