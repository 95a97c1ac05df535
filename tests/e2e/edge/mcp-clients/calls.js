// Lists and calls tools with both official clients of TypeScript, and prints what each finds; test_mcp_clients.py judges.
import * as second from "@modelcontextprotocol/client";
import * as first from "@modelcontextprotocol/sdk/client/index.js";
import * as transport from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const { ENDPOINT, TOKEN } = process.env;
const found = {};
for (const [name, sdk] of [["sdk", { ...first, ...transport }], ["client", second]]) {
  const connect = async (headers) => {
    const client = new sdk.Client({ name: "test", version: "1" });
    await client.connect(new sdk.StreamableHTTPClientTransport(new URL(ENDPOINT), { requestInit: { headers } }));
    return client;
  };
  const client = await connect({ authorization: `Bearer ${TOKEN}` });
  const { tools } = await client.listTools();
  const good = await client.callTool({ name: "get_user", arguments: { id: "1" } });
  const refused = await client.callTool({ name: "get_user", arguments: { id: "1", colour: "red" } });
  await client.close();
  const nobody = await connect({}).then(() => "connected", (error) => String(error));
  found[name] = { tools: tools.map((one) => one.name), good, refused, nobody };
}
console.log(JSON.stringify(found));
