/** The driver of clients/conformance: reads scenarios from stdin, prints the outcome of each as JSON. */

import { readFileSync } from "node:fs";

import { type DescMethod, fromJson, toJson } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";

import { services } from "../src/gen/services.js";
import {
  type Ameide,
  ApiError,
  type Attempt,
  type Change,
  connect,
  paginate,
  type User,
  watch,
  withRetry,
} from "../src/index.js";
import { fileToken } from "../src/node.js";

type Scenario = Record<string, any>;
type Outcome = Record<string, unknown>;

type Told = [number, string][];

function open({ url, token, key, file, from, retry }: Scenario, told: Told): Ameide {
  const credentials: Record<string, object> = {
    function: { token: async () => token },
    file: { token: fileToken(file) },
    key: { apiKey: key },
    both: { token, apiKey: key },
  };
  const credential = credentials[from] ?? (token ? { token } : {});
  const onAttempt = ({ number, error }: Attempt) => told.push([number, error?.reason ?? "ok"]);
  return connect(url, { retry: { firstPauseMs: 10, ...retry }, onAttempt, ...credential });
}

function options({ timeoutMs, retry, idempotencyKey, maxAge }: Scenario = {}) {
  const headers: Record<string, string> = {};
  if (idempotencyKey) {
    headers["idempotency-key"] = idempotencyKey;
  }
  if (maxAge) {
    headers["cache-control"] = `max-age=${maxAge}`;
  }
  const one = { headers, ...(timeoutMs ? { timeoutMs } : {}) };
  return retry ? withRetry(retry, one) : one;
}

async function outcome(api: Ameide, { rpc, request, call, take }: Scenario, attempts: Told): Promise<Outcome> {
  const name = rpc[0].toLowerCase() + rpc.slice(1);
  const method = (services.users.method as Record<string, DescMethod>)[name]!;
  const given: any = fromJson(method.input, request);
  const found: Outcome = {};
  try {
    if (name === "watchUsers") {
      const changes: string[][] = [];
      const watching = watch(api.users.watchUsers, given);
      Object.assign(found, { changes, attempts });
      try {
        while (changes.length < take) {
          const { kind, resource } = (await watching.next()).value as Change<User>;
          changes.push([kind, resource.id]);
        }
      } finally {
        found["resumeToken"] = watching.resumeToken;
        await watching.return?.();
      }
    } else if (name === "listUsers") {
      const items: string[] = [];
      found["items"] = items;
      for await (const { id } of paginate(api.users.listUsers, given, options(call))) {
        items.push(id);
      }
    } else {
      const answer = await (api.users as Record<string, any>)[name](given, options(call));
      found["answer"] = toJson(method.output, answer);
    }
  } catch (error) {
    if (!(error instanceof ApiError)) {
      throw error;
    }
    found["error"] = told(error);
  }
  return found;
}

function told(error: ApiError): Outcome {
  return {
    type: error.constructor.name,
    code: Code[error.code]!.replaceAll(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase(),
    reason: error.reason,
    message: error.rawMessage,
    requestId: error.requestId,
    retryAfterMs: error.retryAfterMs ?? null,
    violations: error.violations,
    values: error.values,
  };
}

async function run(scenario: Scenario): Promise<Outcome> {
  const attempts: Told = [];
  let api;
  try {
    api = open(scenario["client"], attempts);
  } catch {
    return { refused: true };
  }
  return outcome(api, scenario, attempts);
}

const outcomes = [];
for (const scenario of JSON.parse(readFileSync(0, "utf8"))) {
  outcomes.push(await run(scenario));
}
console.log(JSON.stringify(outcomes));
process.exit(0);
