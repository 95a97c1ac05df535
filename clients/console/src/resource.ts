/** One resource: what it is, what may be done with it, and its history. */

import type { Deployment, Ipa, Workflow } from "@ameide/client";

import { DeploymentsView } from "./deployments.js";
import { graph } from "./graph.js";
import { badge, h, type Moment, section, time, words } from "./html.js";
import type { Kind, Resource, Verb } from "./kinds.js";
import { refusal } from "./refusal.js";
import { api } from "./session.js";
import { heading, version, View } from "./view.js";

const MOST = 20; // revisions and agents are shown

export class ResourceView extends View {
  readonly #title = h("div", { class: "title" }, heading("…"));
  readonly #verbs = h("div", { class: "verbs", role: "group", "aria-label": "Actions" });
  readonly #refused = h("div");
  readonly #facts = h("dl", { class: "facts paper" });
  readonly #deployments: DeploymentsView | undefined;
  readonly #details = h("div");
  readonly #history = h("ol", { class: "history" });
  #resource: Resource | undefined;
  #detailed = "";

  constructor(
    private readonly kind: Kind,
    private readonly resourceId: string,
  ) {
    super();
    this.#deployments = kind.path === "ipas" ? new DeploymentsView(resourceId) : undefined;
  }

  connectedCallback(): void {
    const { path, title, singular, watch } = this.kind;
    this.append(
      h("nav", { class: "crumbs", "aria-label": "Where you are" }, h("a", { href: `#/${path}` }, title)),
      h("header", { class: "head" }, this.#title, this.pill),
      ...[this.complaints, this.#verbs, this.#refused, this.#facts],
      ...(this.#deployments ? [this.#deployments] : []),
      ...[this.#details, section("History", this.#history)],
    );
    const problem = `This ${singular} cannot be shown.`;
    const begin = (): Promise<void> => this.attempt(problem, () => this.#load());
    void this.attempt(problem, () =>
      this.follow(watch, `id = ${JSON.stringify(this.resourceId)}`, begin, ({ kind, resource }) => {
        const [before, after] = [this.#resource && this.kind.state(this.#resource), this.kind.state(resource)];
        const what = before !== undefined && before !== after ? [badge(before), " → ", badge(after)] : [words(kind)];
        this.#history.prepend(entry(resource.updateTime, ...what));
        this.#show(resource);
      }),
    );
  }

  async #load(): Promise<void> {
    const resource = await this.kind.get(this.resourceId, this.signal);
    const { createTime, createdBy, updateTime, deleteTime } = resource;
    const revisions = resource.$typeName === "ameide.workflow.v1.Workflow" ? await this.#revisions(resource) : [];
    this.#history.replaceChildren(
      entry(deleteTime ?? updateTime, deleteTime ? "Deleted" : "Last changed"),
      ...revisions,
      entry(createTime, `Created by ${createdBy}`),
    );
    this.#show(resource);
  }

  async #revisions({ id: workflowId }: Workflow): Promise<HTMLElement[]> {
    const page = await api().workflows.listWorkflowRevisions({ workflowId, pageSize: MOST }, { signal: this.signal });
    return page.revisions.map(({ revision, createTime, createdBy, definition }) => {
      const drawing = h("details", {}, h("summary", {}, "Its graph"));
      // It is drawn when somebody looks.
      drawing.addEventListener("toggle", () => drawing.append(graph(definition)), { once: true });
      return entry(createTime, `Published as revision ${revision} by ${createdBy}`, drawing);
    });
  }

  #show(resource: Resource): void {
    if (this.#resource && version(this.#resource) > version(resource)) {
      return;
    }
    const [state, name] = [this.kind.state(resource), heading(resource.displayName)];
    this.#title.replaceChildren(name, badge(state));
    const focused = document.activeElement?.getAttribute("data-verb");
    const verbs = this.kind.verbs.filter((one) => (one.name === "undelete") === (state === "DELETED"));
    this.#verbs.replaceChildren(...verbs.map((one) => this.#button(one, one.from.includes(state))));
    (this.#resource ? this.#verbs.querySelector<HTMLElement>(`[data-verb="${focused}"]`) : name)?.focus();
    this.#resource = resource;
    this.#facts.replaceChildren(...facts(resource));
    const lasting = JSON.stringify({ ...resource, state: 0, etag: "", createTime: "", updateTime: "", deleteTime: "" });
    if (lasting !== this.#detailed) {
      this.#detailed = lasting;
      void this.attempt("The details cannot be shown.", async () =>
        this.#details.replaceChildren(...(await details(resource, this.signal))),
      );
    }
  }

  #button(verb: Verb, helps: boolean): HTMLElement {
    const click = (): void => void (verb.warning && helps ? this.#confirm(verb) : this.#run(verb));
    return h("button", { type: "button", "data-verb": verb.name, class: helps && !verb.warning && "primary", click }, words(verb.name));
  }

  #confirm(verb: Verb): void {
    const title = `${words(verb.name)} “${this.#resource?.displayName}”?`;
    const answer = (look: string, text: string): HTMLElement => h("button", { class: look, value: look }, text);
    const answers = h("form", { method: "dialog", class: "verbs" }, answer("", "Leave it"), answer("danger", words(verb.name)));
    const dialog = h("dialog", { "aria-label": title }, h("h2", {}, title), h("p", {}, verb.warning), answers);
    dialog.addEventListener("close", () => {
      dialog.remove();
      this.#verbs.querySelector<HTMLElement>(`[data-verb="${verb.name}"]`)?.focus();
      void (dialog.returnValue && this.#run(verb));
    });
    this.append(dialog);
    dialog.showModal();
  }

  async #run(verb: Verb): Promise<void> {
    this.#refused.replaceChildren();
    try {
      const result = (await this.kind.move(verb, this.#resource!)) as Resource | Deployment;
      result.$typeName === "ameide.ipa.v1.Deployment" && this.#deployments?.show(result);
    } catch (error) {
      this.#refused.replaceChildren(refusal(`${words(verb.name)} was refused.`, error));
    }
  }
}
customElements.define("ameide-resource", ResourceView);

const entry = (moment: Moment | undefined, ...what: (Node | string)[]): HTMLElement => h("li", {}, h("span", { class: "soft" }, time(moment)), h("div", {}, ...what));

function facts(resource: Resource): HTMLElement[] {
  const labels = Object.entries(resource.labels).map(([key, value]) => h("span", { class: "label" }, `${key}: ${value}`));
  const rows: Record<string, Node | string | false | undefined> = {
    About: resource.description,
    "E-mail": "email" in resource && resource.email,
    Roles: "roles" in resource && (resource.roles.map(words).join(", ") || "None"),
    Model: "model" in resource && resource.model,
    Published: "revision" in resource && (resource.revision ? `Revision ${resource.revision}` : "Not yet"),
    Labels: labels.length > 0 && h("span", {}, ...labels),
    Changed: time(resource.updateTime),
    Id: h("code", {}, resource.id),
  };
  return Object.entries(rows).flatMap(([name, value]) => (value ? [fact(name, value)] : []));
}

const fact = (name: Node | string, value: Node | string): HTMLElement => h("div", {}, h("dt", {}, name), h("dd", {}, value));

/** What only its kind has. */
async function details(resource: Resource, signal: AbortSignal): Promise<HTMLElement[]> {
  if (resource.$typeName === "ameide.workflow.v1.Workflow") {
    return [section("Graph", graph(resource.definition))];
  }
  if (resource.$typeName === "ameide.agent.v1.Agent") {
    const tools = resource.tools.map((one) => fact(h("code", {}, one.name), one.description));
    const instructions = section("Instructions", h("p", { class: "prose" }, resource.instructions || "None."));
    return [instructions, section("Tools", tools.length ? h("dl", { class: "facts paper" }, ...tools) : h("p", {}, "None."))];
  }
  return resource.$typeName === "ameide.ipa.v1.Ipa" ? [await automation(resource, signal)] : [];
}

/** The workflow of an IPA, with the agents that do its steps. */
async function automation({ workflowId, workflowRevision: revision, agentBindings }: Ipa, signal: AbortSignal): Promise<HTMLElement> {
  if (!workflowId) {
    return section("Workflow", h("p", { class: "empty" }, h("strong", {}, "None yet."), " An IPA is deployed with one."));
  }
  const ids = [...new Set(Object.values(agentBindings))].slice(0, MOST);
  const [workflow, published, ...agents] = await Promise.all([
    api().workflows.getWorkflow({ id: workflowId }, { signal }),
    revision ? api().workflows.getWorkflowRevision({ workflowId, revision }, { signal }) : undefined,
    ...ids.map((id) => api().agents.getAgent({ id }, { signal })),
  ]);
  const nameOf = (id: string): string => agents.find((one) => one.id === id)?.displayName ?? "An agent";
  const captions = new Map(Object.entries(agentBindings).map(([node, id]) => [node, nameOf(id)]));
  const links = agents.flatMap((one) => [", ", h("a", { href: `#/agents/${one.id}` }, one.displayName)]);
  const name = h("a", { href: `#/workflows/${workflowId}` }, workflow.displayName);
  const text = [revision ? `, revision ${revision}.` : ".", ...(links.length ? [" Agents: ", ...links.slice(1)] : [])];
  return section("Workflow", h("p", { class: "hint" }, name, ...text), graph((published ?? workflow).definition, captions));
}
