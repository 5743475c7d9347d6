// Saying how fresh the page is: in a word beside the replication line at once, and to a screen reader when it has stayed so for a while.

const SETTLED = 5000; // ms after which a state is worth being spoken

const WORDS = {
  live: ["Live", "The page is live again: changes appear at once."],
  looking: [(seconds) => `Looks every ${seconds} s`, "No live connection: the page looks for changes every few seconds."],
  away: ["No answer", "The server does not answer: the page shows what it last knew."],
};

// poll: ms between looks without a socket. Each function returns whether it changed what is shown.
export function connection(poll) {
  const sign = document.getElementById("connection"), spoken = document.getElementById("spoken");
  let linked = false, answers = true, state = null, said = "live", timer = null;

  function show() {
    const now = linked ? "live" : answers ? "looking" : "away";
    if (now === state) return false;
    state = now;
    const word = WORDS[now][0];
    sign.textContent = typeof word === "string" ? word : word(poll / 1000);
    sign.title = WORDS[now][1];
    sign.dataset.state = now;
    sign.hidden = false;
    clearTimeout(timer);
    timer = setTimeout(speak, SETTLED);
    return true;
  }

  function speak() {
    if (state !== said) spoken.textContent = WORDS[state][1];
    said = state;
  }

  return {
    linked: (up) => { linked = up; answers = answers || up; return show(); },
    answered: () => { answers = true; return show(); },
    failed: () => { answers = false; return show(); },
  };
}
