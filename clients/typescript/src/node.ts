/** What only programs of Node.js can do. */

import { readFile } from "node:fs/promises";

/** Makes a token that is read from a file before each attempt, so that a new one counts: `token: fileToken(path)`. */
export function fileToken(path: string): () => Promise<string> {
  return () => readFile(path, "utf8");
}
