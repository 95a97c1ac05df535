// A file of its own: the page's content security policy allows no script inside it.

const STREAM_MILLISECONDS = 3000;

/** Fetches an answer; of a stream, which does not end, what comes in the first seconds. */
async function fetchStart(url, request) {
  const end = new AbortController();
  const answer = await fetch(url, { ...request, signal: end.signal });
  if (!answer.headers.get("content-type")?.startsWith("text/event-stream")) return answer;
  setTimeout(() => end.abort(), STREAM_MILLISECONDS);
  let text = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) text += part.value;
    return new Response(text, answer);
  } catch {
    const note = `: This is what came in ${STREAM_MILLISECONDS / 1000} seconds. The console and curl -N go on.`;
    return new Response(`${text}${note}\n`, answer);
  }
}

/** Copies a block of code; where the browser does not let the page, selects it. */
async function copy(block, told) {
  try {
    await navigator.clipboard.writeText(block.textContent.trimEnd());
    told.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(block);
    told.textContent = "Selected: copy it with the keyboard";
  }
}

/** Puts a button before a block of code, once; its name says what it copies, as the line above the block does. */
function addCopyButton(block) {
  const above = block.previousElementSibling;
  if (above.matches(".copy")) return;
  const [bar, button, told] = ["div", "button", "span"].map((name) => document.createElement(name));
  bar.className = "copy";
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy ${above.textContent.replace(/:$/, "")}`);
  told.setAttribute("role", "status");
  button.addEventListener("click", () => copy(block, told));
  bar.append(button, told);
  block.before(bar);
}

/** Shows the refusals of an operation as a short list, whose reasons lead to the one table of errors. */
function errors(system) {
  const { createElement: h, Fragment } = system.React;

  /** Takes the reader to the row of a reason, and the keyboard with them. */
  function link(name) {
    const click = () => setTimeout(() => document.getElementById(name).focus());
    return h("a", { href: `#${name}`, onClick: click }, name);
  }

  function refusal(shared, [status, one]) {
    const description = one.get("description") ?? shared.getIn([status, "description"]);
    const [about, named = about] = description.split("\n\n");
    const links = [...named.matchAll(/`([A-Z_]+)`/g)].map(([, name]) => link(name));
    const told = about !== named && h("p", {}, about);
    return h("tr", { key: status }, h("th", { scope: "row" }, status), h("td", {}, told, ...links.flatMap((one) => [one, " "])));
  }

  function Refusals({ path, method }) {
    const spec = system.specSelectors.specJson();
    const refused = spec.getIn(["paths", path, method, "responses"]).filter((_, status) => status >= "400");
    const shared = spec.getIn(["components", "responses"]);
    const rows = refused.entrySeq().map((one) => refusal(shared, one));
    return h("table", { className: "refusals" }, h("caption", {}, "Refusals"), h("tbody", {}, rows.toArray()));
  }

  /** The body of each error that was recorded, closed at first. */
  function bodies(shared) {
    const examples = shared.toList().flatMap((one) => one.getIn(["content", "application/json", "examples"])?.entrySeq() ?? []);
    const recorded = examples.filter(([, one]) => one.get("summary") === "A recorded answer").sortBy(([name]) => name);
    const body = (one) => h("pre", { tabIndex: 0 }, JSON.stringify(one.get("value"), null, 2));
    return recorded.map(([name, one]) => h("details", { key: name }, h("summary", {}, `${name}: a recorded answer`), body(one)));
  }

  /** The tag without operations, whose description is the table; each row can be led to. */
  function Errors() {
    const spec = system.specSelectors.specJson();
    const tag = spec.get("tags").last();
    const source = tag.get("description").replace(/^\| `([A-Z_]+)`/gm, '| <code id="$1" tabindex="-1">$1</code>');
    const table = h(system.getComponent("Markdown"), { source });
    return h("section", { className: "errors" }, h("h3", { className: "opblock-tag" }, tag.get("name")), table, bodies(spec.getIn(["components", "responses"])));
  }

  const followed = (Original) => (props) => h(Fragment, {}, h("h2", {}, "Operations"), h(Original, props));
  const tagged = (Original) => (props) => (props.tag === "Errors" ? h(Errors) : h(Original, props));
  /** Gives a part an attribute that Swagger UI leaves out. */
  const marked = (selector, name, value) => ({ ref: (node) => node?.querySelector(selector)?.setAttribute(name, value) });
  const wrapped = (...mark) => (Original) => (props) => h("div", marked(...mark), h(Original, props));
  const split = (Original) => (props) => {
    const responses = props.responses.filter((_, status) => status < "400");
    const name = marked(".responses-table", "aria-label", `Answers of ${props.method} ${props.path}`);
    return h("div", name, h(Original, { ...props, responses }), h(Refusals, props));
  };
  return {
    wrapComponents: {
      operations: followed,
      OperationTag: tagged,
      responses: split,
      InfoContainer: (Original) => (props) => {
        const ref = (node) => node?.querySelectorAll(".description pre").forEach(addCopyButton);
        return h("div", { role: "banner", ref }, h(Original, props));
      },
      AuthorizeBtnContainer: (Original) => (props) => h("section", { "aria-label": "Credentials" }, h(Original, props)),
      // What scrolls can be reached with the keyboard.
      HighlightCode: wrapped("pre", "tabindex", "0"),
      JsonSchemaForm: wrapped("select", "aria-label", "Value"),
      TextArea: (Original) => (props) => h(Original, { "aria-label": "Body", ...props }),
    },
    components: {
      // There is one server. A link inside a button cannot be reached with the keyboard.
      ServersContainer: () => null,
      DeepLink: ({ text }) => h("span", {}, text),
    },
  };
}

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: -1,
  tryItOutEnabled: true,
  plugins: [errors],
  requestInterceptor: (request) => Object.assign(request, { userFetch: fetchStart }),
  // Sends the document to a service of theirs.
  validatorUrl: null,
});
