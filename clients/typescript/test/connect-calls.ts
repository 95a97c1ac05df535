/**
 * What a caller of Connect sees over any transport. tests/e2e/edge/test_connect_clients.py runs it in Node.js and in a
 * browser, before a service that answers as the display name tells it, and compares what it returns.
 */

import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";

import { BadRequestSchema, ErrorInfoSchema } from "../src/gen/google/rpc/error_details_pb.js";
import { services } from "../src/gen/services.js";

/** Returns what a failure says, with its typed details. */
async function failure(call: Promise<unknown>): Promise<string | string[]> {
  try {
    await call;
    return "no failure";
  } catch (error) {
    const found = ConnectError.from(error);
    return [
      Code[found.code] ?? "",
      ...found.findDetails(ErrorInfoSchema).map((info) => info.reason),
      ...found.findDetails(BadRequestSchema).flatMap((one) => one.fieldViolations.map(({ field }) => field)),
    ];
  }
}

export async function calls(transport: Transport, anonymous: Transport): Promise<Record<string, unknown>> {
  const users = createClient(services.users, transport);
  const nobody = createClient(services.users, anonymous);
  const create = (displayName: string, options = {}) => users.createUser({ user: { displayName } }, options);
  const watch = async (filter: string, client = users) => {
    const tokens = [];
    for await (const message of client.watchUsers({ filter })) {
      tokens.push(message.resumeToken);
      if (message.event.case === "completed") {
        break;
      }
    }
    return tokens.length;
  };

  let headers = new Headers();
  const onHeader = (said: Headers) => (headers = said);
  const made = await create("good", { headers: { "idempotency-key": "mine", "if-match": '"1"' }, onHeader });
  const abort = new AbortController();
  setTimeout(() => abort.abort(), 300);
  return {
    created: [made.displayName, headers.get("etag")],
    read: (await users.getUser({ id: "one" })).id,
    large: (await create("large")).email.length,
    cancelled: await failure(create("cancelled", { signal: abort.signal })),
    // The client's own error, or the edge's, whichever is first.
    late: (await failure(create("late", { timeoutMs: 300 })))[0],
    malformed: await failure(create("malformed")),
    taken: await failure(create("taken")),
    anonymous: await failure(nobody.getUser({ id: "one" })),
    down: await failure(createClient(services.workflows, transport).getWorkflow({ id: "one" })),
    watched: await watch("completed"),
    interrupted: await failure(watch("unavailable")),
    refused: await failure(watch("refused forbidden")),
    unwatched: await failure(watch("", nobody)),
  };
}
