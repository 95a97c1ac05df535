import type { Message } from "@bufbuild/protobuf";
import type { CallOptions } from "@connectrpc/connect";

/** A request that asks for one of many pages. */
interface Paged {
  pageToken?: string;
}

/** A page as the server sends it. */
interface Page {
  nextPageToken: string;
}

/** The item type of the one list of a page. */
type Item<P> = { [K in keyof P]-?: P[K] extends (infer I extends Message)[] ? I : never }[keyof P];

type List<R, P> = (request: R, options?: CallOptions) => Promise<P>;

/**
 * The items of all pages: `for await (const user of paginate(api.users.listUsers))`. Pages are fetched when they are
 * needed.
 */
export async function* paginate<R extends Paged, P extends Page>(
  list: List<R, P>,
  request?: R,
  options?: CallOptions,
): AsyncGenerator<Item<P>> {
  for await (const page of pages(list, request, options)) {
    for (const [name, value] of Object.entries(page)) {
      if (Array.isArray(value) && name !== "$unknown") {
        yield* value as Item<P>[];
      }
    }
  }
}

/** The pages as the server sent them; `nextPageToken` resumes the list later. */
export async function* pages<R extends Paged, P extends Page>(
  list: List<R, P>,
  request?: R,
  options?: CallOptions,
): AsyncGenerator<P> {
  let pageToken: string | undefined = request?.pageToken ?? "";
  while (pageToken !== undefined) {
    const page: P = await list({ ...request, pageToken } as R, options);
    pageToken = page.nextPageToken || undefined;
    yield page;
  }
}
