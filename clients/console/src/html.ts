/** Makes elements, and the texts that people read. */

type Child = Node | string | false | undefined;
type Attributes = Readonly<Record<string, string | boolean | number | undefined | ((event: Event) => void)>>;

/** An element: attributes that are false or undefined are left out, and functions listen to events. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  return fill(document.createElement(tag), attributes, children);
}

/** An element of a drawing. */
export function draw(tag: string, attributes: Attributes = {}, ...children: readonly Child[]): SVGElement {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill<E extends Element>(made: E, attributes: Attributes, children: readonly Child[]): E {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      made.addEventListener(name, value);
    } else if (value !== undefined && value !== false) {
      made.setAttribute(name, value === true ? "" : String(value));
    }
  }
  made.append(...children.filter((child) => child !== undefined && child !== false));
  return made;
}

export const section = (title: string, ...children: readonly Child[]): HTMLElement => h("section", {}, h("h2", {}, title), ...children);

/** `RESERVE_AGENTS` as `Reserve agents`. */
export function words(name: string): string {
  const text = name.replaceAll("_", " ").toLowerCase().replace(/\b(api|ipa)/, (short) => short.toUpperCase());
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A state in its colour. */
export const badge = (state: string): HTMLElement => h("span", { class: `badge ${state.toLowerCase()}` }, words(state));

/** A moment as the API sends it. */
export type Moment = { readonly seconds: bigint; readonly nanos: number };

const AGO = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const DAY = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium" });
const EXACT = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "long" });

/** A moment as people say it; the exact one is its title. */
export function time(moment: Moment | undefined): HTMLElement {
  const at = new Date(moment ? milliseconds(moment) : 0);
  return h("time", { datetime: at.toISOString(), title: EXACT.format(at) }, moment ? ago(at) : "never");
}

export const milliseconds = ({ seconds, nanos }: Moment): number => Number(seconds) * 1000 + Math.floor(nanos / 1e6);

function ago(at: Date): string {
  const minutes = Math.round((Date.now() - at.getTime()) / 60_000);
  if (minutes < 60) {
    return minutes < 1 ? "just now" : AGO.format(-minutes, "minute");
  }
  const hours = Math.round(minutes / 60);
  return hours < 24 ? AGO.format(-hours, "hour") : hours < 24 * 7 ? AGO.format(-Math.round(hours / 24), "day") : DAY.format(at);
}

setInterval(() => document.querySelectorAll("time").forEach((one) => (one.textContent = ago(new Date(one.dateTime)))), 20_000);
