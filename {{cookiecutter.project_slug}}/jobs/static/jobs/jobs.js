// Starts jobs and keeps their table up to date, without reloading the page.

const form = document.querySelector("form");
const news = document.querySelector("#news");
let latest = 0; // the number of the last request: answers to earlier ones are ignored
let failures = 0;
let timer;

const inWords = (row) =>
  `${row.querySelector("code").textContent}: ${row.querySelector(".state").textContent}`;

// Show a fresh table, and announce the states that have changed.
function show(page) {
  const changes = [];
  for (const row of page.querySelectorAll("#jobs tr[id]")) {
    const old = document.getElementById(row.id);
    if (!old || inWords(old) !== inWords(row)) changes.push(inWords(row));
  }
  if (changes.length) news.textContent = changes.join(", ");
  else if (failures) {
    news.textContent =
      "The server answers again. If your job is not in the table, start it again.";
  }
  const [shown, fresh] = [document, page].map((each) => each.getElementById("jobs"));
  if (!shown.isEqualNode(fresh)) shown.replaceChildren(...fresh.childNodes);
}

// Ask for the page, or send the form with these options of fetch; ask again while jobs run.
async function load(options) {
  const number = (latest += 1);
  clearTimeout(timer);
  try {
    const response = await fetch(form.action, options);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    if (number !== latest) return;
    if (!page.getElementById("jobs")) throw new Error(`status ${response.status}`);
    show(page);
    failures = 0;
  } catch (error) {
    if (number !== latest) return;
    failures += 1;
    news.textContent = `Cannot load the page (${error.message}); trying again.`;
  }
  wait();
}

// Ask once a second, less often while the server is down, and never while the page is hidden.
function wait() {
  if (document.hidden || !(failures || document.querySelector("#jobs .open"))) return;
  timer = setTimeout(load, Math.min(1000 * 2 ** failures, 30_000));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  news.textContent = "Sending…";
  load({ method: "POST", body: new FormData(form, event.submitter) });
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else load();
});
news.textContent = ""; // a hint for browsers without JavaScript
wait();
