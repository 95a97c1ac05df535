import { ConnectError } from "@connectrpc/connect";

/** One malformed field of a request. */
export interface Violation {
  /** Its path, `user.email`. */
  readonly field: string;
  /** What is wrong with it, for people. */
  readonly description: string;
  /** The same for programs, `TOO_LONG`. */
  readonly reason: string;
}

/** The details of a failed call beyond its status. */
export interface Facts {
  readonly reason: string;
  readonly requestId: string;
  readonly retryAfterMs: number | undefined;
  readonly violations: readonly Violation[];
  readonly values: Readonly<Record<string, string>>;
}

/** A failed call. Each reason has a subclass; reasons that are newer than this client throw this class itself. */
export class ApiError extends ConnectError implements Facts {
  /** The reason of the contract, `EMAIL_TAKEN`; empty if the call failed before a server saw it. */
  readonly reason: string;
  /** The id by which the operators of the API find the call. */
  readonly requestId: string;
  /** How long the server asks clients to wait before they repeat the call. */
  readonly retryAfterMs: number | undefined;
  /** The malformed fields. */
  readonly violations: readonly Violation[];
  /** Values that belong to the reason. */
  readonly values: Readonly<Record<string, string>>;

  constructor(failure: ConnectError, facts: Facts) {
    super(failure.rawMessage, failure.code, failure.metadata, undefined, failure);
    // The name stays, because ConnectError recognises its instances by it.
    this.details = failure.details;
    this.reason = facts.reason;
    this.requestId = facts.requestId;
    this.retryAfterMs = facts.retryAfterMs;
    this.violations = facts.violations;
    this.values = facts.values;
    const said = facts.violations.map((one) => `${one.field}: ${one.description}`);
    this.message = [this.message, ...said, ...(facts.requestId ? [`request id: ${facts.requestId}`] : [])].join("\n  ");
  }

  /** Without this any ConnectError would be an instance of every class here: ConnectError checks only its name. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return Function.prototype[Symbol.hasInstance].call(this, value);
  }
}
