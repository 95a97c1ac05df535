/** A collection: its filter, its pages, and its changes as they happen. */

import { badge, h, time } from "./html.js";
import type { Kind, Resource } from "./kinds.js";
import { heading, View } from "./view.js";

export class ListView extends View {
  readonly #rows = h("ul", { class: "rows" });
  readonly #empty = h("div", { class: "empty", hidden: true });
  readonly #news = h("p", { class: "unseen", "aria-live": "polite" });
  readonly #older = h("button", { type: "button", hidden: true, click: () => void this.#load(this.#next) }, "Older");
  readonly #newest = h("button", { type: "button", hidden: true, click: () => void this.#load("") }, "Back to the newest");
  readonly #filter: string;
  readonly #problem: string;
  #isCurrent = true;
  #pageToken = "";
  #next = "";

  constructor(
    private readonly kind: Kind,
    private readonly typed: string,
    private readonly showDeleted: boolean,
  ) {
    super();
    this.#problem = `${kind.title} cannot be listed.`;
    // Plain words are looked for in names.
    this.#filter = typed === "" || /[=<>:()*]/.test(typed) ? typed : `display_name:${JSON.stringify(typed)}`;
  }

  connectedCallback(): void {
    const { title, purpose } = this.kind;
    this.append(
      h("header", { class: "head" }, h("div", {}, heading(title), h("p", { class: "soft" }, purpose)), this.pill),
      ...[this.#form(), this.complaints, this.#news, this.#rows, this.#empty],
      h("nav", { class: "pages", "aria-label": "Pages" }, this.#newest, this.#older),
    );
    void this.attempt(this.#problem, () =>
      this.follow(this.kind.watch, this.#filter, () => this.#load(), ({ kind, resource }) => this.#show(kind, resource)),
    );
  }

  #form(): HTMLElement {
    const { path, example } = this.kind;
    const name = h("input", { type: "search", name: "filter", value: this.typed, "aria-describedby": "help" });
    const deleted = h("input", { type: "checkbox", name: "deleted", checked: this.showDeleted });
    const submit = (event: Event): void => {
      event.preventDefault();
      const query = new URLSearchParams({ filter: name.value.trim(), ...(deleted.checked && { deleted: "yes" }) });
      location.hash = `/${path}?${query}`;
    };
    return h(
      "form",
      { class: "filter", role: "search", submit },
      h("label", { class: "wide" }, h("span", {}, "Filter"), name),
      h("label", { class: "check" }, deleted, "deleted, too"),
      h("button", { class: "primary" }, "Apply"),
      h("p", { class: "hint", id: "help" }, "A part of a name, or comparisons: ", h("code", {}, example)),
    );
  }

  #load(pageToken = this.#pageToken): Promise<void> {
    void (pageToken === this.#pageToken || this.querySelector("h1")?.focus());
    this.#pageToken = pageToken;
    return this.attempt(this.#problem, async () => {
      const read = () => this.kind.list(this.#filter, this.showDeleted, pageToken, this.signal);
      this.#isCurrent = true;
      const first = await read();
      // Something may have changed meanwhile.
      const [items, next] = this.#isCurrent ? first : await read();
      this.complaints.replaceChildren();
      this.#rows.replaceChildren(...items.map((one) => this.#row(one)));
      this.#next = next;
      this.#older.hidden = next === "";
      this.#newest.hidden = this.#pageToken === "";
      this.#count();
    });
  }

  #show(what: string, resource: Resource): void {
    this.#isCurrent = false;
    const before = this.#rows.querySelector(`[data-id="${resource.id}"]`);
    if (what === "deleted" && !(this.showDeleted && resource.deleteTime)) {
      before?.remove();
    } else if (before) {
      before.replaceWith(this.#row(resource, "touched"));
    } else if (what === "created" && this.#pageToken === "") {
      this.#rows.prepend(this.#row(resource, "touched"));
    }
    this.#news.textContent = `${resource.displayName} was ${what}.`;
    this.#count();
  }

  #row(resource: Resource, className?: string): HTMLElement {
    return h(
      "li",
      { "data-id": resource.id, class: className },
      h("a", { href: `#/${this.kind.path}/${resource.id}` }, resource.displayName),
      h("span", { class: "about" }, "email" in resource ? resource.email : resource.description),
      badge(this.kind.state(resource)),
      h("span", { class: "when" }, time(resource.updateTime)),
    );
  }

  #count(): void {
    const { path, title, singular } = this.kind;
    this.#empty.hidden = this.#rows.childElementCount > 0;
    const [text, advice, href, link, end] = this.typed
      ? ["Nothing matches this filter.", "Try fewer words, or ", `#/${path}`, `see all ${title}`, "."]
      : [`There is no ${singular} yet.`, "Create one in the ", "/docs", "API reference", " or with a client: it appears here at once."];
    this.#empty.replaceChildren(h("strong", {}, text), advice, h("a", { href }, link), end);
  }
}
customElements.define("ameide-list", ListView);
