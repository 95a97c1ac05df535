import type { Message } from "@bufbuild/protobuf";
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";

import type { ApiError } from "./api-error.js";
import type { Stream } from "./client.js";
import { readFailure } from "./failures.js";
import { isRetryable, OF_A_WATCH, PATIENCE, sleep, type Tell } from "./retries.js";

/** What happened to a resource. */
type Kind = "created" | "updated" | "deleted";

const KINDS: readonly unknown[] = ["created", "updated", "deleted"] satisfies Kind[];
// A stream that sends no more than these made no progress, however often it is opened.
const NO_PROGRESS: readonly unknown[] = ["bookmark", "error", "completed"];
/** A server sends a message at least every two minutes. */
const SILENCE_MS = 150_000;

/** A request that may have a resume token. */
interface Resumable {
  resumeToken?: string;
}

/** A message of a watch, as the server sends it. */
interface Told {
  resumeToken: string;
  event: { case: string | undefined; value?: unknown };
}

/** The resource type of a message. */
type Resource<M> = M extends { event: infer E }
  ? E extends { case: "created"; value: infer R extends Message }
    ? R
    : never
  : never;

/** A change of a resource, as the filter of the watch sees it. */
export interface Change<R> {
  /** What happened. */
  readonly kind: Kind;
  /** The resource after the change. */
  readonly resource: R;
}

/** The options of a watch. */
export interface WatchOptions {
  /** How long a server may be unavailable, in milliseconds. */
  readonly patienceMs?: number;
  /** Ends the watch; the iteration then throws. */
  readonly signal?: AbortSignal;
}

/** The changes to a collection. */
export interface Watch<R> extends AsyncIterableIterator<Change<R>> {
  /** Resumes a watch with the same filter after the last change; valid for about a day. */
  readonly resumeToken: string;
}

/**
 * The changes to a collection: `for await (const change of watch(api.users.watchUsers))`. The watch resumes by itself
 * when a connection, a server or a token ends, and throws every other error.
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
      let tell: Tell = () => {};
      const contextValues = createContextValues().set(OF_A_WATCH, (given) => { tell = given; });
      const options = { signal: ends, timeoutMs: 0, contextValues };
      const messages = open({ ...request, resumeToken } as R, options)[Symbol.asyncIterator]();
      const number = attempts + 1;
      let heard = false;
      let error = ended();
      try {
        for (let message = await next(messages, hangUp); message; message = await next(messages, hangUp)) {
          const { case: kind, value } = message.event;
          resumeToken = message.resumeToken || resumeToken;
          if (!heard) {
            tell(number);
          }
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
      if (!signal?.aborted) {
        tell(number, error);
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

/** Returns the next message, or nothing after the last; ends a stream without heartbeats. */
async function next<M>(messages: AsyncIterator<M>, hangUp: AbortController): Promise<M | undefined> {
  const timer = setTimeout(() => hangUp.abort(), SILENCE_MS);
  try {
    const { done, value } = await messages.next();
    return done ? undefined : value;
  } finally {
    clearTimeout(timer);
  }
}

/** Returns whether a watch continues after `error`: a working stream ends with its token or its connection. */
function passes(error: ApiError, heard: boolean): boolean {
  return isRetryable(error) || (heard && (error.code === Code.Unauthenticated || error.requestId === ""));
}

/** The error of a stream that ended without a last message. */
function ended(): ApiError {
  return readFailure(new ConnectError("The stream has ended.", Code.Unavailable));
}
