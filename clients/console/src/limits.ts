/** What the tenant has and may have, and how often it may call. */

import { h, section, words } from "./html.js";
import { KINDS, rates } from "./kinds.js";
import { heading, View } from "./view.js";

const CLASSES = { READ: "Reads", WRITE: "Writes", EXPENSIVE: "Watches and deployments" } as const;

export class LimitsView extends View {
  connectedCallback(): void {
    const [stored, calls] = [h("ul", { class: "meters" }), h("ul", { class: "meters" })];
    const hint = "Calls at the same moment, of which this console has used some. Each second brings half of them back.";
    this.append(
      h("div", {}, heading("Limits"), h("p", { class: "soft" }, "What your tenant has, and how much it may have.")),
      this.complaints,
      section("Stored", stored),
      section("Calls", h("p", { class: "hint" }, hint), calls),
    );
    void this.attempt("The quotas cannot be shown.", async () => {
      const found = await Promise.all(KINDS.map((kind) => kind.quotas(this.signal)));
      stored.append(...found.flat().map((one) => meter(words(one.collection), Number(one.used), Number(one.limit))));
    }).finally(() => calls.append(...[...rates].map(([name, [limit, left]]) => meter(CLASSES[name], limit - left, limit))));
  }
}
customElements.define("ameide-limits", LimitsView);

function meter(name: string, used: number, limit: number): HTMLElement {
  const said = [used, limit].map((one) => one.toLocaleString("en")).join(" of ");
  const bar = h("progress", { max: limit, value: Math.min(used, limit), "aria-label": name });
  return h("li", {}, h("span", {}, name), bar, h("span", { class: "figure" }, said));
}
