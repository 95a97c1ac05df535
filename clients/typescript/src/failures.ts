import { Code, ConnectError } from "@connectrpc/connect";
import { durationMs } from "@bufbuild/protobuf/wkt";

import { ApiError } from "./api-error.js";
import { byReason } from "./gen/errors.js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";

/** Converts what a call threw into the error of its reason. */
export function readFailure(thrown: unknown): ApiError {
  if (thrown instanceof ApiError) {
    return thrown;
  }
  const failure = asConnectError(thrown);
  const [info] = failure.findDetails(ErrorInfoSchema);
  const [request] = failure.findDetails(RequestInfoSchema);
  const [retry] = failure.findDetails(RetryInfoSchema);
  const [bad] = failure.findDetails(BadRequestSchema);
  // Errors without an answer (no connection, a deadline that passed here) get the reason that a server would send.
  const fallback = Code[failure.code].replaceAll(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
  const reason = info?.reason ?? (fallback in byReason ? fallback : "");
  return new (byReason[reason] ?? ApiError)(failure, {
    reason,
    requestId: request?.requestId ?? "",
    retryAfterMs: retry?.retryDelay && durationMs(retry.retryDelay),
    violations: (bad?.fieldViolations ?? []).map(({ field, description, reason }) => ({ field, description, reason })),
    values: info?.metadata ?? {},
  });
}

function asConnectError(thrown: unknown): ConnectError {
  // fetch throws a TypeError when there is no answer at all.
  if (thrown instanceof TypeError || (thrown instanceof ConnectError && thrown.cause instanceof TypeError)) {
    return new ConnectError(causeOf(thrown), Code.Unavailable, undefined, undefined, thrown);
  }
  const failure = ConnectError.from(thrown);
  // Connect's own: a server would send details.
  if (failure.code === Code.DeadlineExceeded && failure.details.length === 0) {
    const text = `No answer came within the timeout: ${failure.rawMessage}`;
    return new ConnectError(text, failure.code, failure.metadata, undefined, thrown);
  }
  return failure;
}

/** What Node.js says deep inside of why there is no connection, and what it means. A browser tells its page nothing. */
const CAUSES: readonly (readonly [RegExp, string])[] = [
  [/ALTNAME_INVALID/, "The server's certificate is for another host"],
  [/CERT|SIGNATURE|SSL|TLS/, "The server's certificate is not trusted"],
  [/ENOTFOUND|EAI_AGAIN/, "The host is unknown"],
  [/ECONNREFUSED/, "Nothing listens at the address"],
  [/TIMEDOUT|TIMEOUT|UNREACH/, "The server cannot be reached"],
];

function causeOf(thrown: unknown): string {
  for (let cause = thrown; cause instanceof Error; cause = cause.cause ?? (cause as AggregateError).errors?.[0]) {
    const code = String((cause as { code?: unknown }).code ?? "");
    const found = CAUSES.find(([sign]) => sign.test(code));
    if (found) {
      return `${found[1]}: ${cause.message || code}`;
    }
  }
  return "There is no connection.";
}
