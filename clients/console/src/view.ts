/** What all views share: they live as long as they are shown, follow a collection, and say why they cannot. */

import { ApiError, type Change, watch } from "@ameide/client";

import { h } from "./html.js";
import { type Open, seen } from "./kinds.js";
import { refusal } from "./refusal.js";

const STATUS = { connecting: "Connecting…", live: "Live", lost: "Connection lost. Trying again…" } as const;

/** A part of the page that stops all it does when it is taken away. */
export abstract class View extends HTMLElement {
  readonly #ends = new AbortController();
  protected readonly signal = this.#ends.signal;
  /** Where refusals are said. */
  protected readonly complaints = h("div");
  protected readonly pill = h("p", { class: "pill connecting", role: "status" }, STATUS.connecting);

  /** Begins to show. */
  abstract connectedCallback(): void;

  disconnectedCallback(): void {
    this.#ends.abort();
  }

  /** Does `work`; a refusal of it is said here, unless this view is gone. */
  protected async attempt(what: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (error instanceof ApiError && error.reason === "UNAUTHENTICATED") {
        this.dispatchEvent(new CustomEvent("unknown", { bubbles: true, detail: error }));
      } else if (!this.signal.aborted) {
        this.complaints.replaceChildren(refusal(what, error));
      }
    }
  }

  /** Follows a collection in a stream, which opens again when it breaks; `read` reads what there was before. */
  protected async follow<R>(open: Open<R>, filter: string, read: () => Promise<void>, show: (change: Change<R>) => void): Promise<void> {
    const say = (status: keyof typeof STATUS): void => {
      this.pill.className = `pill ${status}`;
      this.pill.textContent = STATUS[status];
    };
    const told: Open<R> = async function* (request, options) {
      let isOpen = false;
      try {
        for await (const message of open(request, { ...options, onHeader: (headers) => seen("EXPENSIVE", headers) })) {
          if (!isOpen) {
            isOpen = true;
            say("live");
            void (request.resumeToken || read());
          }
          yield message;
        }
      } finally {
        say("lost");
      }
    };
    try {
      for await (const change of watch(told, { filter }, { signal: this.signal, patienceMs: Infinity })) {
        show(change as unknown as Change<R>);
      }
    } catch (error) {
      if (!this.signal.aborted && error instanceof ApiError && error.reason === "RESUME_TOKEN_EXPIRED") {
        return this.follow(open, filter, read, show);
      }
      // What cannot be followed can still be looked at.
      this.pill.hidden = true;
      await (this.signal.aborted || read());
      throw error;
    }
  }
}

/** Which of two versions of a resource is the newer one. */
export const version = ({ etag }: { readonly etag: string }): number => Number(etag.slice(1, -1));

/** The heading of a page. */
export function heading(text: string): HTMLElement {
  document.title = `${text} · Ameide console`;
  return h("h1", { tabindex: -1 }, text);
}
