// A double click sends a form once: the second one would meet what the first has changed, such as the password. And a page whose form is on
// its way waits for the answer, whatever it hears meanwhile: to load itself anew would cut that off, and a look would take its words.

const TOGETHER = 2000; // ms within which two submits of a form are one
const ANSWERED = 60000; // ms in which the answer to a form takes this page away

const sent = new WeakMap();
let last = -Infinity; // when a form went on its way

export function sendOnce() {
  document.addEventListener("submit", (event) => {
    const now = performance.now(), before = sent.get(event.target);
    if (event.defaultPrevented) return;
    if (before !== undefined && now - before < TOGETHER) event.preventDefault();
    else {
      sent.set(event.target, now);
      last = now;
    }
  });
  addEventListener("pageshow", ({ persisted }) => {
    if (!persisted) return;
    document.querySelectorAll("form").forEach((form) => sent.delete(form));
    last = -Infinity;
  });
}

export const isSending = () => performance.now() - last < ANSWERED;

export function reload() {
  if (!isSending()) location.reload();
}
