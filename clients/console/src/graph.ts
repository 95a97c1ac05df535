/** Draws a workflow. */

import { type Definition, type Edge, type Node, Node_Type } from "@ameide/client";

import { draw, h, words } from "./html.js";
import { layOut, type Point } from "./layers.js";

const [WIDTH, HEIGHT, GAP_X, GAP_Y] = [176, 58, 28, 54];
/** Characters in a line. */
const LINE = 23;
let drawings = 0;

/** The drawing, and its steps as a list; `captions` says more about nodes, by their ids. */
export function graph(definition: Definition | undefined, captions: ReadonlyMap<string, string> = new Map()): HTMLElement {
  const { nodes = [], edges = [] } = definition ?? {};
  if (nodes.length === 0) {
    const advice = " Steps and edges come with an update of the workflow’s definition.";
    return h("p", { class: "empty" }, h("strong", {}, "The graph is empty."), advice);
  }
  const layout = layOut(nodes.map((one) => one.id), edges, WIDTH + GAP_X, HEIGHT + GAP_Y);
  const arrow = `arrow-${drawings++}`;
  const size = [layout.width, layout.layers * (HEIGHT + GAP_Y) - GAP_Y + 4] as const;
  const drawing = draw(
    "svg",
    { viewBox: [0, GAP_Y / 2 - 2, ...size].join(" "), width: size[0], height: size[1], role: "img", "aria-label": `${nodes.length} steps` },
    draw("marker", { id: arrow, refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, orient: "auto" }, draw("path", { d: "M0 0.5L8 4L0 7.5z", class: "arrow" })),
    ...layout.links.map(({ link, points }) => drawLink(link, points, arrow)),
    ...nodes.map((one) => drawNode(one, layout.nodes.get(one.id)!, captions.get(one.id))),
  );
  const list = h("ol", {}, ...nodes.map((one) => h("li", {}, sentence(one, nodes, edges, captions))));
  return h(
    "figure",
    { class: "graph paper" },
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Drawing of the graph" }, drawing),
    h("details", {}, h("summary", {}, "The steps as a list"), list),
  );
}

const nameOf = (id: string, nodes: readonly Node[]): string => nodes.find((one) => one.id === id)?.displayName || id;

function sentence({ id, type }: Node, nodes: readonly Node[], edges: readonly Edge[], captions: ReadonlyMap<string, string>): string {
  const next = edges
    .filter(({ source }) => source === id)
    .map(({ target, condition }) => nameOf(target, nodes) + (condition && ` if ${condition}`));
  const what = [words(Node_Type[type] ?? "step").toLowerCase(), captions.get(id)].filter(Boolean).join(": ");
  return `${nameOf(id, nodes)} (${what})${next.length ? `, then ${next.join(", or ")}` : ""}`;
}

function drawNode({ id, displayName, type }: Node, { x, y }: Point, caption?: string): SVGElement {
  const kind = Node_Type[type] ?? "STEP";
  const radius = type === Node_Type.START || type === Node_Type.END ? HEIGHT / 2 : 10;
  const lines = fold(displayName || id);
  return draw(
    "g",
    { class: `node ${kind.toLowerCase()}` },
    draw("title", {}, displayName || id),
    draw("rect", { x: x - WIDTH / 2, y: y - HEIGHT / 2, width: WIDTH, height: HEIGHT, rx: radius }),
    draw("text", { x, y: y - (lines.length > 1 ? 14 : 8), class: "kind" }, short(caption ?? words(kind))),
    ...lines.map((line, number) => draw("text", { x, y: y + (lines.length > 1 ? 3 : 12) + number * 16 }, line)),
  );
}

/** A smooth line from below its source to above its target; a link back leaves and enters at the other ends. */
function drawLink({ condition }: Edge, points: readonly Point[], arrow: string): SVGElement {
  const [begin, end] = [points[0]!, points.at(-1)!];
  const down = end.y > begin.y ? 1 : -1;
  const aside = down < 0 ? WIDTH / 4 : 0;
  const stops = [
    { x: begin.x + aside, y: begin.y + (down * HEIGHT) / 2 },
    ...points.slice(1, -1),
    { x: end.x + aside, y: end.y - (down * HEIGHT) / 2 },
  ];
  const curves = stops.slice(1).map(({ x, y }, number) => {
    const middle = (stops[number]!.y + y) / 2;
    return `C${stops[number]!.x} ${middle} ${x} ${middle} ${x} ${y}`;
  });
  const [from, to] = [stops[0]!, stops[1]!];
  // Beside a bend there is room for its text; else it stands in the middle.
  const at = stops.length > 2 ? to : { x: (from.x + to.x) / 2, y: (from.y + to.y) / 2 };
  const said = condition && draw("text", { x: at.x, y: at.y + 4 }, draw("title", {}, condition), short(condition));
  const line = draw("path", { d: `M${from.x} ${from.y}${curves.join("")}`, "marker-end": `url(#${arrow})` });
  return draw("g", { class: down < 0 ? "link back" : "link" }, line, said);
}

/** One line, or two. */
function fold(text: string): string[] {
  const gap = text.lastIndexOf(" ", LINE);
  const end = text.length > LINE && gap > 0 ? gap : LINE;
  return [text.slice(0, end), short(text.slice(end).trim())].filter(Boolean);
}

const short = (text: string): string => text.length <= LINE ? text : `${text.slice(0, LINE - 1)}…`;
