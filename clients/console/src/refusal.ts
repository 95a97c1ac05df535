/** Says why the API refused a call, and what to do. */

import { ApiError } from "@ameide/client";

import { h } from "./html.js";

/** What helps, by the reason that the API gives. */
const ADVICE: Readonly<Record<string, string>> = {
  UNAUTHENTICATED: "Sign in again: the credential has expired, or nobody knows it.",
  PERMISSION_DENIED: "Your roles do not allow this. An admin of your tenant can give you another role.",
  ETAG_MISMATCH: "Somebody changed it meanwhile. You see the newest version now: look at it, then try again.",
  QUOTA_EXCEEDED: "The tenant has all that it may have. Delete something, or ask for a larger quota.",
  INVALID_FILTER: 'A filter compares fields, as in state = "ACTIVE" AND labels.team = "payments".',
  UNAVAILABLE: "A part of the API does not answer. Try again in a moment.",
};

/** The refusal of `what`: its message with the first violation, the other ones, the reason, and the request id. */
export function refusal(what: string, thrown: unknown): HTMLElement {
  const { rawMessage, reason = "", requestId = "", violations = [] } = thrown instanceof ApiError ? thrown : {};
  const others = violations.slice(1).map((one) => h("li", {}, h("code", {}, one.field), ` ${one.description}`));
  return h(
    "div",
    { class: "refusal", role: "alert" },
    h("strong", {}, what),
    h("p", {}, rawMessage ?? String(thrown)),
    others.length > 0 && h("ul", {}, ...others),
    reason in ADVICE && h("p", {}, ADVICE[reason]),
    reason !== "" && h("p", { class: "trace" }, "Reason ", h("code", {}, reason)),
    requestId !== "" && h("p", { class: "trace" }, "Request id ", h("code", {}, requestId)),
  );
}
