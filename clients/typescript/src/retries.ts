import { MethodOptions_IdempotencyLevel as Level } from "@bufbuild/protobuf/wkt";
import { type CallOptions, Code, createContextKey, createContextValues, type Interceptor } from "@connectrpc/connect";

import type { ApiError } from "./api-error.js";
import { readFailure } from "./failures.js";

/** How often and when a call is repeated within its timeout. */
export interface RetryPolicy {
  /** The most attempts of a call; 1 switches retries off. */
  readonly maxAttempts: number;
  /** The longest pause before the second attempt. It doubles with each attempt; the pause is a random part of it. */
  readonly firstPauseMs: number;
  /** The limit of the doubling. A server's RetryInfo counts, however long it is. */
  readonly longestPauseMs: number;
}

export const PATIENCE: RetryPolicy = { maxAttempts: 4, firstPauseMs: 100, longestPauseMs: 5_000 };

/** One attempt of a call or of a watch, as `onAttempt` is told. */
export interface Attempt {
  /** `/ameide.user.v1.UserService/GetUser`. */
  readonly method: string;
  /** 1 for the first attempt of a call, or of a watch since it last got a change. */
  readonly number: number;
  /** Why it failed, or why the stream of a watch ended; absent if it answers. */
  readonly error?: ApiError;
}

/** Is told of an attempt: its number, and why it failed. */
export type Tell = (number: number, error?: ApiError) => void;

/** What a watch gives with each stream: it gets what tells the client's `onAttempt`. */
export const OF_A_WATCH = createContextKey<(tell: Tell) => void>(() => {});

const OF_THIS_CALL = createContextKey<Partial<RetryPolicy>>({});

/** Options of one call with retries of its own: `api.users.getUser({ id }, withRetry({ maxAttempts: 1 }))`. */
export function withRetry(policy: Partial<RetryPolicy>, options: CallOptions = {}): CallOptions {
  return { ...options, contextValues: (options.contextValues ?? createContextValues()).set(OF_THIS_CALL, policy) };
}

/** Limits retries to a tenth of the successful calls, so that they do not worsen an outage (gRFC A6). */
class RetryBudget {
  static readonly #MOST = 20;
  static readonly #EARNED = 0.1;
  #tokens = RetryBudget.#MOST;

  earn(): void {
    this.#tokens = Math.min(RetryBudget.#MOST, this.#tokens + RetryBudget.#EARNED);
  }

  spend(): boolean {
    this.#tokens = Math.max(0, this.#tokens - 1);
    return this.#tokens > RetryBudget.#MOST / 2;
  }
}

/** Repeats a call where that may help. Each call that writes gets an idempotency key, so a retry is safe. */
export function retrying(usual: RetryPolicy, tell: (attempt: Attempt) => void = () => {}): Interceptor {
  const budget = new RetryBudget();
  return (next) => async (request) => {
    const method = `/${request.service.typeName}/${request.method.name}`;
    if (request.stream) {
      request.contextValues.get(OF_A_WATCH)((number, error) => tell({ method, number, ...(error && { error }) }));
      return next(request);
    }
    if (request.method.idempotency !== Level.NO_SIDE_EFFECTS && !request.header.has("idempotency-key")) {
      request.header.set("idempotency-key", crypto.randomUUID());
    }
    const policy = { ...usual, ...request.contextValues.get(OF_THIS_CALL) };
    // connect has written the timeout there, in milliseconds; request.signal ends with it, too.
    const deadline = performance.now() + Number.parseInt(request.header.get("grpc-timeout") ?? "Infinity", 10);
    for (let made = 1; ; made++) {
      try {
        const response = await next(request);
        budget.earn();
        tell({ method, number: made });
        return response;
      } catch (thrown) {
        const error = readFailure(thrown);
        tell({ method, number: made, error });
        if (!isRetryable(error) || !budget.spend() || made >= policy.maxAttempts) {
          throw error;
        }
        const longest = Math.min(policy.firstPauseMs * 2 ** (made - 1), policy.longestPauseMs);
        // Jitter only adds to the delay that the server asked for.
        const pause = Math.random() * longest + (error.retryAfterMs ?? 0);
        if (performance.now() + pause >= deadline) {
          throw error;
        }
        await sleep(pause, request.signal, error);
        if (Number.isFinite(deadline)) {
          request.header.set("grpc-timeout", `${Math.max(1, Math.ceil(deadline - performance.now()))}m`);
        }
      }
    }
  };
}

/** Returns whether the same call may succeed when it is repeated. */
export function isRetryable(error: ApiError): boolean {
  return (
    error.code === Code.Unavailable ||
    error.code === Code.DeadlineExceeded ||
    error.retryAfterMs !== undefined ||
    // Another call won; this one changed nothing.
    error.reason === "CONCURRENT_UPDATE" ||
    error.reason === "IDEMPOTENCY_KEY_IN_USE"
  );
}

/** Waits, or throws `error` when `signal` aborts. */
export async function sleep(pauseMs: number, signal: AbortSignal, error: ApiError): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const giveUp = () => {
      clearTimeout(timer);
      reject(error);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", giveUp);
      resolve();
    }, pauseMs);
    signal.addEventListener("abort", giveUp, { once: true });
  });
}
