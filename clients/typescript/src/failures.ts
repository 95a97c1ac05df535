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
    return new ConnectError("There is no connection.", Code.Unavailable, undefined, undefined, thrown);
  }
  return ConnectError.from(thrown);
}
