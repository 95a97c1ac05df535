/** The deployments of an IPA, step by step as they happen. */

import { type Deployment, type Deployment_Compensation, Deployment_State, type Deployment_Step, Deployment_Step_State } from "@ameide/client";

import { badge, h, milliseconds, time, words } from "./html.js";
import { api } from "./session.js";
import { version, View } from "./view.js";

const SHOWN = 5;
const MARKS: Readonly<Record<string, string>> = { DONE: "✓", FAILED: "✕", RUNNING: "…" };
/** What a state means for who waits. */
const MEANING: Readonly<Record<string, string>> = {
  DEPLOYING: "The steps are under way.",
  DEPLOYED: "The IPA is at work.",
  COMPENSATING: "A step failed. What was done is being undone.",
  FAILED: "A step failed, and what was done is undone: nothing is held.",
  RETIRING: "What the deployment holds is being released.",
  RETIRED: "The IPA has ended its work: nothing is held.",
  NEEDS_ATTENTION: "A step failed too often. Find the cause, then resume.",
};

export class DeploymentsView extends View {
  readonly #list = h("div", { "aria-live": "polite" });
  readonly #found = new Map<string, Deployment>();

  constructor(private readonly ipaId: string) {
    super();
  }

  connectedCallback(): void {
    const { ipaId, signal } = this;
    this.append(h("h2", {}, "Deployments"), this.complaints, this.#list);
    const problem = "The deployments cannot be shown.";
    const load = async (): Promise<void> => {
      const { deployments } = await api().ipas.listDeployments({ ipaId, pageSize: SHOWN }, { signal });
      const hint = " Deploy puts the IPA to work, and its steps appear here.";
      this.#list.replaceChildren(h("p", { class: "empty" }, h("strong", {}, "Never deployed."), hint));
      deployments.forEach((one) => this.show(one));
    };
    void this.attempt(problem, () =>
      this.follow<Deployment>(
        (request, options) => api().ipas.watchDeployments({ ...request, ipaId }, options),
        "",
        () => this.attempt(problem, load),
        ({ resource }) => this.show(resource),
      ),
    );
  }

  /** Shows a deployment, unless a newer version of it is shown. */
  show(deployment: Deployment): void {
    const known = this.#found.get(deployment.id);
    if (!known || version(known) <= version(deployment)) {
      this.#found.set(deployment.id, deployment);
      // Ids begin with the time.
      const newest = [...this.#found.values()].sort((one, other) => (one.id < other.id ? 1 : -1)).slice(0, SHOWN);
      this.#list.replaceChildren(...newest.map((one, number) => this.#card(one, number === 0)));
    }
  }

  #card({ id, ipaId, state, createTime, createdBy, steps, retireSteps }: Deployment, isNewest: boolean): HTMLElement {
    const name = Deployment_State[state] ?? "UNKNOWN";
    const click = (): void =>
      void this.attempt("Resume was refused.", async () => this.show(await api().ipas.resumeDeployment({ ipaId, id })));
    return h(
      "details",
      { class: "paper", open: isNewest, "data-state": name },
      h("summary", {}, badge(name), " begun ", time(createTime), ` by ${createdBy}`),
      h("p", { class: "hint" }, MEANING[name]),
      name === "NEEDS_ATTENTION" && h("button", { type: "button", class: "primary", click }, "Resume"),
      h("ol", { class: "steps" }, ...steps.map(step)),
      retireSteps.length > 0 && h("h3", {}, "Retirement"),
      retireSteps.length > 0 && h("ol", { class: "steps" }, ...retireSteps.map(step)),
    );
  }
}
customElements.define("ameide-deployments", DeploymentsView);

function step({ compensation: undo, ...one }: Deployment_Step): HTMLElement {
  const begun = undo && undo.state !== Deployment_Step_State.PENDING;
  return h("li", {}, ...progress(words(one.name), one), begun && h("ol", { class: "steps" }, h("li", {}, ...progress("Undo it", undo))));
}

/** The progress of a step, or of what undoes it. */
function progress(name: string, { state, attempts, error, startTime, endTime }: Deployment_Step | Deployment_Compensation): Node[] {
  const said = Deployment_Step_State[state] ?? "UNKNOWN";
  const took = startTime && endTime && milliseconds(endTime) - milliseconds(startTime);
  const facts = [words(said), took !== undefined && `${took} ms`, attempts > 1 && `${attempts} attempts`];
  return [
    h("span", { class: `mark ${said.toLowerCase()}`, "aria-hidden": "true" }, MARKS[said]),
    h("span", {}, name),
    h("span", { class: "soft" }, facts.filter(Boolean).join(" · ")),
    ...(error ? [h("p", { class: "why" }, error.message, " ", h("code", {}, error.reason))] : []),
  ];
}
