import { MethodOptions_IdempotencyLevel as Level } from "@bufbuild/protobuf/wkt";
import { Code, type Interceptor } from "@connectrpc/connect";

import type { ApiError } from "./api-error.js";
import { readFailure } from "./failures.js";

/** How patient a client is within a call's timeout. */
export interface RetryPolicy {
  /** How often a call is made at most; 1 turns retries off. */
  readonly maxAttempts: number;
  /** The longest pause before the second attempt; it doubles with each attempt, and a random part of it is waited. */
  readonly firstPauseMs: number;
  /** Where the doubling ends. A server's RetryInfo counts, however long. */
  readonly longestPauseMs: number;
}

export const PATIENCE: RetryPolicy = { maxAttempts: 4, firstPauseMs: 100, longestPauseMs: 5_000 };

/** Keeps the retries of all calls at a tenth of what succeeds, so that an outage is not made worse (gRFC A6). */
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

/** Makes a call again where that may help; gives each call that writes an idempotency key, so that it does no harm. */
export function retrying(policy: RetryPolicy): Interceptor {
  const budget = new RetryBudget();
  return (next) => async (request) => {
    if (request.stream) {
      return next(request);
    }
    if (request.method.idempotency !== Level.NO_SIDE_EFFECTS && !request.header.has("idempotency-key")) {
      request.header.set("idempotency-key", crypto.randomUUID());
    }
    // connect has written the timeout there, in milliseconds; it ends request.signal, too.
    const deadline = performance.now() + Number.parseInt(request.header.get("grpc-timeout") ?? "Infinity", 10);
    for (let made = 1; ; made++) {
      try {
        const response = await next(request);
        budget.earn();
        return response;
      } catch (thrown) {
        const error = readFailure(thrown);
        if (!isRetryable(error) || !budget.spend() || made >= policy.maxAttempts) {
          throw error;
        }
        const longest = Math.min(policy.firstPauseMs * 2 ** (made - 1), policy.longestPauseMs);
        // Jitter only adds to what the server asked for.
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

/** Tells whether the same call may succeed when it is made again. */
export function isRetryable(error: ApiError): boolean {
  return (
    error.code === Code.Unavailable ||
    error.code === Code.DeadlineExceeded ||
    error.retryAfterMs !== undefined ||
    // Lost against another call; nothing was done.
    error.reason === "CONCURRENT_UPDATE" ||
    error.reason === "IDEMPOTENCY_KEY_IN_USE"
  );
}

/** Waits, or throws `error` when `signal` says so. */
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
