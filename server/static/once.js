// A double click sends a form once: the second one would meet what the first has changed, such as the password.

const TOGETHER = 2000; // ms within which two submits of a form are one

const sent = new WeakMap();

export function sendOnce() {
  document.addEventListener("submit", (event) => {
    const now = performance.now(), before = sent.get(event.target);
    if (event.defaultPrevented) return;
    if (before !== undefined && now - before < TOGETHER) event.preventDefault();
    else sent.set(event.target, now);
  });
  addEventListener("pageshow", ({ persisted }) => persisted && document.querySelectorAll("form").forEach((form) => sent.delete(form)));
}
