/** The client of the Ameide API, for browsers and Node.js. */

export { ApiError, type Violation } from "./api-error.js";
export { type Ameide, connect, type Options, type Token } from "./client.js";
export * from "./gen/errors.js";
export * from "./gen/types.js";
export { pages, paginate } from "./paging.js";
export { type Attempt, type RetryPolicy, withRetry } from "./retries.js";
export { type Change, type Watch, watch, type WatchOptions } from "./watching.js";
