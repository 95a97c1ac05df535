import type { Message } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";

import type { ApiError } from "./api-error.js";
import type { Stream } from "./client.js";
import { readFailure } from "./failures.js";
import { isRetryable, PATIENCE, sleep } from "./retries.js";

/** What happened to a resource. */
type Kind = "created" | "updated" | "deleted";

const KINDS: readonly unknown[] = ["created", "updated", "deleted"] satisfies Kind[];
// A stream that says no more than this has got nowhere, however often it is opened.
const NO_PROGRESS: readonly unknown[] = ["bookmark", "error", "completed"];
/** A server says at least every two minutes that it is there. */
const SILENCE_MS = 150_000;

/** A request that may go on from a place. */
interface Resumable {
  resumeToken?: string;
}

/** A message of a watch, as the server sends it. */
interface Told {
  resumeToken: string;
  event: { case: string | undefined; value?: unknown };
}

/** What the changes of a message are about. */
type Resource<M> = M extends { event: infer E } ? (E extends { case: "created"; value: infer R extends Message } ? R : never) : never;

/** Something happened to a resource, as far as the filter of the watch can see. */
export interface Change<R> {
  /** What happened. */
  readonly kind: Kind;
  /** As the change has left it. */
  readonly resource: R;
}

/** How patiently. */
export interface WatchOptions {
  /** How long a server may be away, in milliseconds. */
  readonly patienceMs?: number;
  /** Ends the watch; the iteration then throws. */
  readonly signal?: AbortSignal;
}

/** The changes to a collection. */
export interface Watch<R> extends AsyncIterableIterator<Change<R>> {
  /** Where a watch with the same filter goes on after the last change; kept by the server for a day or so. */
  readonly resumeToken: string;
}

/**
 * The changes to a collection: `for await (const change of watch(api.users.watchUsers))`. It goes on by itself when connection, server or
 * token come to their end, and throws what it cannot pass.
 */
export function watch<R extends Resumable, M extends Told>(
  open: Stream<R, M>,
  request?: R,
  { patienceMs = 300_000, signal }: WatchOptions = {},
): Watch<Resource<M>> {
  let resumeToken = request?.resumeToken ?? "";

  async function* changes(): AsyncGenerator<Change<Resource<M>>, undefined> {
    let lostAt: number | undefined;
    for (let attempts = 0; ; attempts++) {
      const hangUp = new AbortController();
      const ends = signal ? AbortSignal.any([signal, hangUp.signal]) : hangUp.signal;
      const messages = open({ ...request, resumeToken } as R, { signal: ends, timeoutMs: 0 })[Symbol.asyncIterator]();
      let heard = false;
      let error = ended();
      try {
        for (let message = await next(messages, hangUp); message; message = await next(messages, hangUp)) {
          const { case: kind, value } = message.event;
          resumeToken = message.resumeToken || resumeToken;
          heard = true;
          if (!NO_PROGRESS.includes(kind)) {
            [attempts, lostAt] = [0, undefined];
          }
          if (KINDS.includes(kind)) {
            yield { kind: kind as Kind, resource: value as Resource<M> };
          }
        }
      } catch (thrown) {
        error = hangUp.signal.aborted ? error : readFailure(thrown);
      } finally {
        hangUp.abort();
      }
      lostAt ??= performance.now();
      if (signal?.aborted || !passes(error, heard) || performance.now() - lostAt > patienceMs) {
        throw error;
      }
      const longest = Math.min(PATIENCE.firstPauseMs * 2 ** attempts, PATIENCE.longestPauseMs);
      await sleep(Math.random() * longest + (error.retryAfterMs ?? 0), ends, error);
    }
  }

  const iterator = changes();
  return Object.defineProperty(iterator, "resumeToken", { get: () => resumeToken }) as unknown as Watch<Resource<M>>;
}

/** Returns the next message, or nothing after the last; hangs up where nobody says that there is nothing to say. */
async function next<M>(messages: AsyncIterator<M>, hangUp: AbortController): Promise<M | undefined> {
  const timer = setTimeout(() => hangUp.abort(), SILENCE_MS);
  try {
    const { done, value } = await messages.next();
    return done ? undefined : value;
  } finally {
    clearTimeout(timer);
  }
}

/** What ends a stream that was good: the token has expired, or the connection broke, which has many words. */
function passes(error: ApiError, heard: boolean): boolean {
  return isRetryable(error) || (heard && (error.code === Code.Unauthenticated || error.requestId === ""));
}

/** What a stream ends with that says nothing else. */
function ended(): ApiError {
  return readFailure(new ConnectError("The stream has ended.", Code.Unavailable));
}
