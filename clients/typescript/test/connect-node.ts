/** Prints what `connect-calls.ts` sees in Node.js: `node connect-node.js 2 json`. */

import { compressionGzip, createConnectTransport } from "@connectrpc/connect-node";

import { calls } from "./connect-calls.js";

const { EDGE_URL = "", TOKEN = "" } = process.env;
const [version, codec, get] = process.argv.slice(2);

const transport = (token?: string) =>
  createConnectTransport({
    baseUrl: EDGE_URL,
    httpVersion: version === "2" ? "2" : "1.1",
    useBinaryFormat: codec === "proto",
    useHttpGet: get === "get",
    ...(codec === "proto" ? { sendCompression: compressionGzip, compressMinBytes: 0 } : {}),
    interceptors: token
      ? [(next) => (request) => (request.header.set("authorization", `Bearer ${token}`), next(request))]
      : [],
  });

console.log(JSON.stringify(await calls(transport(TOKEN), transport())));
process.exit(0);
