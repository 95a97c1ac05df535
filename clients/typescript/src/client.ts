import type { DescService } from "@bufbuild/protobuf";
import {
  type CallOptions,
  type Client,
  Code,
  ConnectError,
  createClient,
  type Interceptor,
  type Transport,
} from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { readFailure } from "./failures.js";
import { services } from "./gen/services.js";
import { type Attempt, PATIENCE, type RetryPolicy, retrying } from "./retries.js";

/** A token of the issuer, or a function that returns one. */
export type Token = string | (() => string | Promise<string>);

/** The credential of a client, its timeout and its retries. */
export interface Options {
  /** Each attempt calls a function again, so it should cache its token. */
  readonly token?: Token;
  /** The API key of a service account, instead of a token. */
  readonly apiKey?: string;
  /** The default for a call with all its retries. */
  readonly timeoutMs?: number;
  /** How often and when a call is repeated. */
  readonly retry?: Partial<RetryPolicy>;
  /** Is called after each attempt of a call, and when a stream of a watch answers or ends; it must not throw. */
  readonly onAttempt?: (attempt: Attempt) => void;
}

/** The services of the API. */
export type Ameide = { readonly [Name in keyof typeof services]: Client<(typeof services)[Name]> };

/**
 * Opens the API over gRPC-Web, which browsers and Node.js speak alike.
 *
 * @param url `https://api.example.com`; `http://` is for this machine only.
 * @throws TypeError if the URL cannot be used, or there are two credentials.
 */
export function connect(url: string, { token, apiKey, timeoutMs = 30_000, retry, onAttempt }: Options = {}): Ameide {
  const { protocol, hostname } = new URL(url);
  if (protocol !== "https:" && !(protocol === "http:" && /^(localhost|127(\.\d+){3}|\[::1\])$/.test(hostname))) {
    throw new TypeError(`${url} would send credentials in plain text; use https`);
  }
  if (token !== undefined && apiKey !== undefined) {
    throw new TypeError("a token or an API key, not both: the edge refuses such calls");
  }
  const transport = createGrpcWebTransport({
    baseUrl: url,
    defaultTimeoutMs: timeoutMs,
    interceptors: [retrying({ ...PATIENCE, ...retry }, onAttempt), identifying(token, apiKey)],
  });
  const clients = Object.entries(services).map(([name, service]) => [name, open(service, transport)]);
  return Object.fromEntries(clients) as Ameide;
}

type Call = (request: unknown, options?: CallOptions) => Promise<unknown>;

/** Opens a stream. */
export type Stream<R, M> = (request: R, options?: CallOptions) => AsyncIterable<M>;

/** Makes a client whose calls throw ApiErrors: connect ends a call at its deadline outside the interceptors. */
function open(service: DescService, transport: Transport): unknown {
  const client = createClient(service, transport) as unknown as Record<string, unknown>;
  const calls = service.methods.map(({ localName, methodKind }) => {
    const call = client[localName];
    return [localName, methodKind === "unary" ? typed(call as Call) : typedStream(call as Stream<unknown, unknown>)];
  });
  return Object.fromEntries(calls);
}

function typed(call: Call): Call {
  return (request, options) =>
    call(request, options).catch((thrown: unknown) => {
      throw readFailure(thrown);
    });
}

/** A stream has no deadline unless its caller sets one. */
function typedStream<R, M>(call: Stream<R, M>): Stream<R, M> {
  return async function* (request, options) {
    try {
      yield* call(request, { timeoutMs: 0, ...options });
    } catch (thrown) {
      throw readFailure(thrown);
    }
  };
}

/** Adds the credential, anew for each attempt. */
function identifying(token: Token | undefined, apiKey: string | undefined): Interceptor {
  return (next) => async (request) => {
    if (token !== undefined) {
      request.header.set("authorization", `Bearer ${plain(typeof token === "string" ? token : await token())}`);
    } else if (apiKey !== undefined) {
      request.header.set("x-api-key", plain(apiKey));
    }
    return next(request);
  };
}

/** Returns a credential without the line break that files end with. */
function plain(credential: string): string {
  const stripped = credential.trim();
  if (!/^[ -~]+$/.test(stripped)) {
    const text = "The token or API key is empty, or holds a character that no header can carry.";
    throw new ConnectError(text, Code.InvalidArgument);
  }
  return stripped;
}
