// Prints the collection that Bruno makes of an OpenAPI document.
import { readFileSync } from "node:fs";
import bruno from "@usebruno/converters";

console.log(JSON.stringify(await bruno.openApiToBruno(JSON.parse(readFileSync(process.argv[2])))));
