/** Places the nodes of a graph in layers, so that its links lead down and cross little (Sugiyama et al., 1981). */

export type Point = { readonly x: number; readonly y: number };
type Link = { readonly source: string; readonly target: string; readonly condition: string };

/** A node or, on a link that passes layers, a bend. */
type Place = { readonly layer: number; readonly width: number; readonly above: Place[]; readonly below: Place[]; x: number };

const BEND_WIDTH = 40;
const LABEL_WIDTH = 130;
const SWEEPS = 8;
/** A link that needs more of them is drawn straight. */
const MOST_BENDS = 4_000;

/**
 * Returns the centre of each node, and each link as points from its source to its target.
 *
 * @param width of a node with the gap beside it
 * @param height of a layer
 */
export function layOut<L extends Link>(ids: readonly string[], all: readonly L[], width: number, height: number) {
  const depth = depths(ids, all);
  const layers: Place[][] = [];
  const put = (layer: number, width: number): Place => {
    const place: Place = { layer, width, above: [], below: [], x: 0 };
    (layers[layer] ??= []).push(place);
    return place;
  };
  const nodes = new Map(ids.map((id) => [id, put(depth.get(id)!, width)]));
  let bends = 0;
  const links = all.filter(({ source, target }) => nodes.has(source) && nodes.has(target));
  const paths = links.map((link) => {
    const [source, target] = [nodes.get(link.source)!, nodes.get(link.target)!];
    const [top, bottom] = source.layer < target.layer ? [source, target] : [target, source];
    const path = [top];
    for (let layer = top.layer + 1; layer < bottom.layer && bends < MOST_BENDS; layer++, bends++) {
      path.push(put(layer, link.condition && path.length === 1 ? LABEL_WIDTH : BEND_WIDTH));
    }
    path.push(bottom);
    path.slice(1).forEach((place, number) => {
      place.above.push(path[number]!);
      path[number]!.below.push(place);
    });
    return { link, path: top === source ? path : path.reverse() };
  });
  const widthOf = (layer: readonly Place[]): number => layer.reduce((sum, place) => sum + place.width, 0);
  // Each layer is ordered by the middle of its neighbours, downwards and upwards in turn.
  for (let sweep = 0; sweep <= SWEEPS; sweep++) {
    for (const layer of sweep % 2 ? layers.toReversed() : layers) {
      const middle = new Map(layer.map((place) => [place, centre(sweep % 2 ? place.below : place.above) ?? place.x]));
      let x = -widthOf(layer) / 2;
      for (const place of layer.sort((one, other) => middle.get(one)! - middle.get(other)!)) {
        place.x = x + place.width / 2;
        x += place.width;
      }
    }
  }
  const widest = Math.max(...layers.map(widthOf));
  const point = ({ x, layer }: Place): Point => ({ x: x + widest / 2, y: (layer + 0.5) * height });
  return {
    nodes: new Map([...nodes].map(([id, place]) => [id, point(place)])),
    links: paths.map(({ link, path }) => ({ link, points: path.map(point) })),
    ...{ width: widest, layers: layers.length },
  };
}

const centre = (places: readonly Place[]): number | undefined => places.length ? places.reduce((sum, one) => sum + one.x, 0) / places.length : undefined;

/** How far each node is from where its graph begins, by the longest way; links that close a circle do not count. */
function depths(ids: readonly string[], links: readonly Link[]): Map<string, number> {
  const depth = new Map(ids.map((id) => [id, 0]));
  const leaving = Map.groupBy(links, (link) => link.source);
  const [open, order] = [new Set<string>(), new Set<string>()];
  const forward = new Map<string, string[]>(ids.map((id) => [id, []]));
  const visit = (id: string): void => {
    open.add(id);
    for (const { target } of leaving.get(id) ?? []) {
      if (depth.has(target) && !open.has(target)) {
        forward.get(id)!.push(target);
        order.has(target) || visit(target);
      }
    }
    open.delete(id);
    order.add(id);
  };
  ids.forEach((id) => order.has(id) || visit(id));
  // The order has what a node leads to before the node.
  for (const id of [...order].reverse()) {
    forward.get(id)!.forEach((target) => depth.set(target, Math.max(depth.get(target)!, depth.get(id)! + 1)));
  }
  return depth;
}
