import { ConnectError } from "@connectrpc/connect";

/** One field of a request that was refused. */
export interface Violation {
  /** Its path, `user.email`. */
  readonly field: string;
  /** What is wrong with it. */
  readonly description: string;
}

/** What a failed call says beyond its status. */
export interface Facts {
  readonly reason: string;
  readonly requestId: string;
  readonly retryAfterMs: number | undefined;
  readonly violations: readonly Violation[];
  readonly values: Readonly<Record<string, string>>;
}

/** A call failed. Thrown itself for reasons that are newer than this client; others have a class of their own. */
export class ApiError extends ConnectError implements Facts {
  /** The reason of the contract, `EMAIL_TAKEN`; empty if the call failed before a server saw it. */
  readonly reason: string;
  /** What the operators of the API find the call by. */
  readonly requestId: string;
  /** When the server wants to be asked again. */
  readonly retryAfterMs: number | undefined;
  /** The fields that were refused. */
  readonly violations: readonly Violation[];
  /** Values that belong to the reason. */
  readonly values: Readonly<Record<string, string>>;

  constructor(failure: ConnectError, facts: Facts) {
    super(failure.rawMessage, failure.code, failure.metadata, undefined, failure);
    // The name stays: it is what ConnectError knows its own by.
    this.details = failure.details;
    this.reason = facts.reason;
    this.requestId = facts.requestId;
    this.retryAfterMs = facts.retryAfterMs;
    this.violations = facts.violations;
    this.values = facts.values;
  }

  /** Without this, any ConnectError would be an instance of any class here: ConnectError asks for its name only. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return Function.prototype[Symbol.hasInstance].call(this, value);
  }
}
