// Follows a collection: server-sent events over fetch, because EventSource sends no token. A file of its own: the page's content
// security policy allows no script inside it.
const form = document.querySelector("form");
const rows = document.querySelector("tbody");
const MAX_ROWS = 500;
// UNAVAILABLE and RESOURCE_EXHAUSTED pass; the watch goes on where it was.
const PASSES = new Set([8, 14]);
let watching = new AbortController();

form.addEventListener("submit", (event) => {
  event.preventDefault();
  watching.abort();
  watching = new AbortController();
  rows.replaceChildren();
  follow(Object.fromEntries(new FormData(form)), watching.signal);
});

form.addEventListener("reset", (event) => {
  event.preventDefault();
  watching.abort();
  say("Nothing is watched.");
});

/** Shows changes until there is no use, or `signal` says so. */
async function follow({ token, collection, ...begin }, signal) {
  let resumeToken = "";
  for (let pause = 500; ; pause = Math.min(pause * 2, 10_000)) {
    let error = { code: 14, message: "The connection was lost." };
    try {
      const query = new URLSearchParams(resumeToken ? { filter: begin.filter, resumeToken } : begin);
      const answer = await fetch(`/v1/${collection}:watch?${query}`, { headers: { authorization: `Bearer ${token}` }, signal });
      if (answer.ok) {
        say(`Watching ${collection}.`);
        for await (const message of events(answer.body)) {
          resumeToken = message.resumeToken;
          error = message.error ?? error;
          if (show(message)) {
            pause = 500;
          }
        }
      } else {
        error = await answer.json();
      }
    } catch {
      // No answer, or half of one.
    }
    if (signal.aborted) {
      return;
    }
    if (!PASSES.has(error.code)) {
      say(`The watch has ended: ${error.message}`);
      return;
    }
    say(`${error.message} Once more…`);
    await new Promise((resolve) => setTimeout(resolve, Math.random() * pause));
    if (signal.aborted) {
      return;
    }
  }
}

/** Yields the messages of a stream of server-sent events, each of which has its data in one line. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
    const lines = (text + chunk.value).split("\n");
    text = lines.pop();
    yield* lines.filter((line) => line.startsWith("data: ")).map((line) => JSON.parse(line.slice(6)));
  }
}

/** Adds a row for a change; tells whether it was one. */
function show(message) {
  const kind = ["created", "updated", "deleted"].find((name) => message[name]);
  if (!kind) {
    return false;
  }
  const { updateTime, displayName, state, id } = message[kind];
  const row = rows.insertRow(0);
  row.className = kind;
  for (const text of [updateTime, kind, displayName, state, id]) {
    row.insertCell().textContent = text;
  }
  if (rows.rows.length > MAX_ROWS) {
    rows.deleteRow(-1);
  }
  return true;
}

function say(text) {
  document.querySelector("[role=status]").textContent = text;
}
