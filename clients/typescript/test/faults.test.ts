/**
 * The client through a real edge to a service that fails as the display name tells it
 * (tests/e2e/edge/test_typescript_client.py).
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Code, ConnectError } from "@connectrpc/connect";

import {
  ApiError,
  type Attempt,
  connect,
  DeadlineExceededError,
  EmailTakenError,
  InvalidRequestError,
  pages,
  paginate,
  RateLimitedError,
  UnauthenticatedError,
  UnavailableError,
  withRetry,
} from "../src/index.js";

const { EDGE_URL = "", SECURE_URL = "", TOKEN = "" } = process.env;
const retry = { firstPauseMs: 10 };
const api = connect(EDGE_URL, { token: TOKEN, retry });

const create = (displayName: string, client = api) => client.users.createUser({ user: { displayName } });

test("a write is made again under one key", async () => {
  assert.equal((await create("busy twice")).displayName, "busy twice");
});

test("a read is made again without a key", async () => {
  assert.equal((await api.users.getUser({ id: "busy thrice" })).id, "busy thrice");
});

test("a caller may bring a key", async () => {
  await api.users.createUser({ user: { displayName: "own key" } }, { headers: { "idempotency-key": "mine" } });
});

test("a pause is as long as the server asks", async () => {
  const started = performance.now();
  await create("later");
  assert.ok(performance.now() - started >= 200);
});

test("a pause beyond the deadline is not begun", async () => {
  const started = performance.now();
  await assert.rejects(api.users.createUser({ user: { displayName: "much later" } }, { timeoutMs: 5_000 }), (error) => {
    assert.ok(error instanceof RateLimitedError);
    assert.equal(error.retryAfterMs, 60_000);
    return true;
  });
  assert.ok(performance.now() - started < 4_000);
});

test("what cannot pass is thrown at once, as what it is", async () => {
  await assert.rejects(create("taken"), (error) => {
    assert.ok(error instanceof EmailTakenError && error instanceof ApiError && error instanceof ConnectError);
    assert.ok(!(error instanceof UnavailableError));
    assert.equal(error.code, Code.AlreadyExists);
    assert.equal(error.reason, "EMAIL_TAKEN");
    assert.equal(error.requestId, "the-id");
    return true;
  });
});

test("an error names the fields that were refused", async () => {
  await assert.rejects(create("malformed"), (error) => {
    assert.ok(error instanceof InvalidRequestError);
    const [field, description, reason] = ["user.email", "must be an address", "INVALID_FORMAT"];
    assert.deepEqual(error.violations, [{ field, description, reason }]);
    return true;
  });
});

test("an error of the edge is of the same kind", async () => {
  await assert.rejects(create("nobody", connect(EDGE_URL, { token: "not a token" })), (error) => {
    assert.ok(error instanceof UnauthenticatedError);
    assert.ok(error.requestId);
    return true;
  });
});

test("a reason that is newer than the client is an ApiError", async () => {
  await assert.rejects(create("newer"), (error) => {
    assert.ok(error instanceof ApiError);
    assert.equal(error.constructor, ApiError);
    assert.equal(error.reason, "NEWER");
    return true;
  });
});

for (const [url, cause] of [
  ["http://127.0.0.1:9", "There is no connection."],
  ["https://no-such-host.invalid", "The host is unknown: "],
  [SECURE_URL.replace("localhost", "127.0.0.2"), "The server's certificate is for another host: "],
] as const) {
  test(`no server is an error with a reason and a cause: ${cause}`, async () => {
    await assert.rejects(create("nobody", connect(url, { retry: { maxAttempts: 1 } })), (error) => {
      assert.ok(error instanceof UnavailableError);
      assert.ok(error.rawMessage.startsWith(cause), error.rawMessage);
      return true;
    });
  });
}

test("a deadline ends the call", async () => {
  await assert.rejects(api.users.getUser({ id: "sleepy" }, { timeoutMs: 200 }), (error) => {
    assert.ok(error instanceof DeadlineExceededError);
    assert.match(error.message, /No answer came within the timeout|deadline/i);
    return true;
  });
});

test("each attempt is told", async () => {
  const told: [string, number, string | undefined][] = [];
  const onAttempt = ({ method, number, error }: Attempt) => told.push([method, number, error?.reason]);
  await create("busy once, told", connect(EDGE_URL, { token: TOKEN, retry, onAttempt }));
  const path = "/ameide.user.v1.UserService/CreateUser";
  assert.deepEqual(told, [[path, 1, "UNAVAILABLE"], [path, 2, undefined]]);
});

test("one call has retries of its own, beside its other options", async () => {
  const options = withRetry({ maxAttempts: 1 }, { timeoutMs: 5_000, headers: { "idempotency-key": "mine" } });
  await assert.rejects(api.users.createUser({ user: { displayName: "busy, not again" } }, options), UnavailableError);
});

for (const token of ["", "a\nb", "é"]) {
  test(`a token that no header can carry is refused here: ${JSON.stringify(token)}`, async () => {
    await assert.rejects(create("nobody", connect(EDGE_URL, { token })), /no header can carry/);
  });
}

test("a budget bounds the retries of an outage", async () => {
  const impatient = connect(EDGE_URL, { token: TOKEN, retry: { firstPauseMs: 1 } });
  for (let count = 0; count < 20; count++) {
    await assert.rejects(create("outage", impatient), UnavailableError);
  }
});

test("a token is asked for before each attempt", async () => {
  let asked = 0;
  await create("busy twice, fresh token", connect(EDGE_URL, { retry, token: async () => (asked++, TOKEN) }));
  assert.equal(asked, 3);
});

test("an API key is a credential", async () => {
  await create("by key", connect(EDGE_URL, { apiKey: "the-key" }));
});

test("a list goes through all pages, the empty one among them", async () => {
  const ids: string[] = [];
  for await (const user of paginate(api.users.listUsers, { filter: 'state = "ACTIVE"' })) {
    ids.push(user.id);
  }
  assert.deepEqual(ids, ["a", "b", "c", "d", "e"]);
});

test("a list is resumed with a token", async () => {
  const first = (await pages(api.users.listUsers).next()).value;
  const ids: string[] = [];
  for await (const { id } of paginate(api.users.listUsers, { pageToken: first.nextPageToken })) {
    ids.push(id);
  }
  assert.deepEqual(ids, ["c", "d", "e"]);
});

test("a connection is with whom the caller trusts", async () => {
  assert.equal((await create("encrypted", connect(SECURE_URL, { token: TOKEN }))).displayName, "encrypted");
});

test("a credential never travels in plain text, nor do two", () => {
  assert.throws(() => connect("http://api.example.com", { token: "t" }), /plain text/);
  assert.throws(() => connect("http://localhost.example.com", { token: "t" }), /plain text/);
  assert.throws(() => connect("http://localhost:1", { token: "t", apiKey: "k" }), /not both/);
});
