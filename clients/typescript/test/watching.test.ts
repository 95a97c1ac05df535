/** Watches through a real edge to a service whose streams end as the filter tells it (tests/e2e/edge/histories.py). */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Code } from "@connectrpc/connect";

import {
  ApiError,
  type Change,
  connect,
  PermissionDeniedError,
  ResumeTokenExpiredError,
  UnauthenticatedError,
  UnavailableError,
  type User,
  watch,
} from "../src/index.js";

const { EDGE_URL = "", TOKEN = "" } = process.env;
const api = connect(EDGE_URL, { token: TOKEN });

/** Reads until the last change, or until something is thrown. */
async function ids(changes: AsyncIterable<Change<User>>): Promise<string[]> {
  const seen: string[] = [];
  for await (const { resource } of changes) {
    seen.push(resource.id);
    if (resource.id === "10") {
      break;
    }
  }
  return seen;
}

test("a watch tells what happens and where it is", async () => {
  const watching = watch(api.users.watchUsers, { initialState: true });
  assert.equal(watching.resumeToken, "");
  const seen: [string, string, string][] = [];
  for await (const { kind, resource } of watching) {
    seen.push([kind, resource.id, watching.resumeToken]);
    if (seen.length === 3) {
      break;
    }
  }
  const expected = [["updated", "1", "1"], ["deleted", "2", "2"], ["created", "3", "3"]];
  assert.deepEqual(seen, expected);
});

test("a watch begins where it is told", async () => {
  assert.deepEqual(await ids(watch(api.users.watchUsers, { resumeToken: "7" })), ["8", "9", "10"]);
});

for (const ending of ["unavailable", "slow", "expired", "refused unavailable, refused slow"]) {
  test(`a watch goes on after: ${ending}`, async () => {
    const seen = await ids(watch(api.users.watchUsers, { filter: `${ending}, ${ending}` }));
    assert.deepEqual(seen, ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]);
  });
}

test("a watch goes on after its last heartbeat", async () => {
  // The tokens of heartbeats leave out one change each.
  const seen = await ids(watch(api.users.watchUsers, { filter: "completed, completed" }));
  assert.deepEqual(seen, ["1", "2", "4", "5", "7", "8", "9", "10"]);
});

test("a watch asks for the credential each time", async () => {
  let asked = 0;
  const fresh = connect(EDGE_URL, { token: async () => (asked++, TOKEN) });
  await ids(watch(fresh.users.watchUsers, { filter: "expired, unavailable" }));
  assert.equal(asked, 3);
});

for (const [ending, error] of [
  ["forbidden", PermissionDeniedError],
  ["gone", ResumeTokenExpiredError],
  ["expired, refused expired", UnauthenticatedError],
] as const) {
  test(`a watch throws what does not pass: ${ending}`, async () => {
    const watching = watch(api.users.watchUsers, { filter: ending });
    await assert.rejects(ids(watching), error);
    assert.equal(watching.resumeToken, "2");
  });
}

test("a watch is patient for so long", async () => {
  const filter = Array(60).fill("refused unavailable").join(", ");
  const started = performance.now();
  await assert.rejects(ids(watch(api.users.watchUsers, { filter }, { patienceMs: 300 })), UnavailableError);
  assert.ok(performance.now() - started >= 300);
});

test("a watch ends when its caller says so", async () => {
  const stop = new AbortController();
  const watching = watch(api.users.watchUsers, { resumeToken: "9" }, { signal: stop.signal });
  await watching.next();
  const waiting = watching.next();
  stop.abort();
  await assert.rejects(waiting, (error) => error instanceof ApiError && error.code === Code.Canceled);
});
