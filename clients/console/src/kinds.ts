/** The aggregates, and how the console reads and moves each of them. */

import { type Agent, Agent_State, type Ipa, Ipa_State, type Quota, type User, User_State, type Workflow, Workflow_State } from "@ameide/client";

import { words } from "./html.js";
import { api } from "./session.js";

export type Resource = (User | Workflow | Agent | Ipa) & { readonly description?: string };

/** Opens a watch. */
export type Open<R> = (
  request: { filter?: string; resumeToken?: string },
  options?: { readonly signal?: AbortSignal; readonly onHeader?: (headers: Headers) => void },
) => AsyncIterable<{ resumeToken: string; event: { case: string | undefined; value?: R | unknown } }>;

/** What moves a resource from one of the states `from` to another; in all others the API refuses it. */
export interface Verb {
  readonly name: string;
  readonly from: readonly string[];
  /** What it does for good, or to others. */
  readonly warning?: string;
}

type RateClass = "READ" | "WRITE" | "EXPENSIVE";
type Call = (request: object, options: object) => Promise<unknown>;
const PAGE_SIZE = 20;

/** Of each rate class, what the last answer said: the limit, and what is left of it. */
export const rates = new Map<RateClass, readonly [limit: number, left: number]>();

export function seen(rateClass: RateClass, headers: Headers): void {
  if (headers.has("x-ratelimit-limit")) {
    rates.set(rateClass, [Number(headers.get("x-ratelimit-limit")), Number(headers.get("x-ratelimit-remaining"))]);
  }
}

/** One aggregate. Its calls have the names that the contract gives them. */
export class Kind {
  readonly title: string;
  readonly singular: string;
  readonly verbs: readonly Verb[];

  constructor(
    readonly path: "workflows" | "agents" | "ipas" | "users",
    private readonly noun: string,
    private readonly states: Readonly<Record<number, string>>,
    readonly purpose: string,
    /** A filter to begin with. */
    readonly example: string,
    ...verbs: readonly Verb[]
  ) {
    this.title = words(path);
    this.singular = noun === "Ipa" ? "IPA" : noun.toLowerCase();
    const remove = { name: "delete", from: Object.values(states), warning: "Lists hide it then. Undelete brings it back." };
    this.verbs = [...verbs, remove, { name: "undelete", from: ["DELETED"] }];
  }

  async list(filter: string, showDeleted: boolean, pageToken: string, signal: AbortSignal): Promise<[Resource[], string]> {
    const request = { filter, showDeleted, pageToken, pageSize: PAGE_SIZE };
    const page = await this.#call<Record<string, unknown>>(`list${this.noun}s`, request, "READ", signal);
    return [page[this.path] as Resource[], page["nextPageToken"] as string];
  }

  readonly get = (id: string, signal: AbortSignal): Promise<Resource> => this.#call(`get${this.noun}`, { id }, "READ", signal);

  async quotas(signal: AbortSignal): Promise<Quota[]> {
    return (await this.#call<{ quotas: Quota[] }>(`get${this.noun}Quotas`, {}, "READ", signal)).quotas;
  }

  move(verb: Verb, { id, etag }: Resource): Promise<unknown> {
    return this.#call(`${verb.name}${this.noun}`, { id, etag }, verb.name === "deploy" ? "EXPENSIVE" : "WRITE");
  }

  get watch(): Open<Resource> {
    return (api()[this.path] as unknown as Record<string, Open<Resource>>)[`watch${this.noun}s`]!;
  }

  /** Its state, or that it is deleted. */
  state({ deleteTime, state }: Resource): string {
    return deleteTime ? "DELETED" : (this.states[state] ?? "UNKNOWN");
  }

  #call<T>(name: string, request: object, rateClass: RateClass, signal?: AbortSignal): Promise<T> {
    const options = { ...(signal && { signal }), onHeader: (headers: Headers) => seen(rateClass, headers) };
    return (api()[this.path] as unknown as Record<string, Call>)[name]!(request, options) as Promise<T>;
  }
}

export const KINDS: readonly Kind[] = [
  new Kind(
    ...(["workflows", "Workflow", Workflow_State] as const),
    "Graphs of steps: drafted, published as numbered revisions, archived.",
    'state = "PUBLISHED" AND revision > 1',
    { name: "publish", from: ["DRAFT", "PUBLISHED"] },
    { name: "archive", from: ["PUBLISHED"], warning: "An archived workflow stays archived." },
  ),
  new Kind(
    ...(["agents", "Agent", Agent_State] as const),
    "Models with instructions and tools, which do the work of steps.",
    'state = "ACTIVE"',
    { name: "activate", from: ["DRAFT", "DISABLED"] },
    { name: "disable", from: ["ACTIVE"] },
  ),
  new Kind(
    ...(["ipas", "Ipa", Ipa_State] as const),
    "Intelligent process automations: workflows whose steps are bound to agents. A deployment puts one to work.",
    'state = "DEPLOYED"',
    { name: "deploy", from: ["DRAFT", "FAILED"] },
    { name: "retire", from: ["DEPLOYING", "DEPLOYED", "FAILED"], warning: "A retired IPA never works again." },
  ),
  new Kind(
    ...(["users", "User", User_State] as const),
    "The people of this tenant, and what their roles let them do.",
    'roles:admin AND email:"example.com"',
    { name: "suspend", from: ["ACTIVE"], warning: "Every call of a suspended user is refused." },
    { name: "activate", from: ["SUSPENDED"] },
  ),
];
