/** The page /console: what the API holds, and what happens to it. */

import { h } from "./html.js";
import { KINDS } from "./kinds.js";
import { LimitsView } from "./limits.js";
import { ListView } from "./list.js";
import { refusal } from "./refusal.js";
import { ResourceView } from "./resource.js";
import { isSignedIn, signOut, takeToken, who } from "./session.js";
import { SignInView } from "./sign-in.js";

const [bar, account, main] = ["nav", "#account", "main"].map((one) => document.querySelector<HTMLElement>(one)!);

function show(complaint?: HTMLElement): void {
  const address = new URL(location.origin + (location.hash.startsWith("#/") ? location.hash.slice(1) : "/workflows"));
  const [collection = "", id] = address.pathname.slice(1).split("/");
  const links = [...KINDS, { path: "limits", title: "Limits" }].map(({ path, title }) =>
    h("a", { href: `#/${path}`, "aria-current": path === collection && "page" }, title),
  );
  bar!.replaceChildren(...(isSignedIn() ? links : []), h("a", { href: "/docs" }, "API reference"));
  const click = (): void => void (signOut(), show());
  const leave = [h("span", {}, who()), h("button", { type: "button", click }, "Sign out")];
  account!.replaceChildren(...(isSignedIn() ? leave : []));
  const kind = KINDS.find((one) => one.path === collection) ?? KINDS[0]!;
  const { searchParams: asked } = address;
  if (!isSignedIn()) {
    main!.replaceChildren(new SignInView(show, complaint));
  } else if (collection === "limits") {
    main!.replaceChildren(new LimitsView());
  } else {
    const list = (): ListView => new ListView(kind, asked.get("filter") ?? "", asked.has("deleted"));
    main!.replaceChildren(id ? new ResourceView(kind, id) : list());
  }
  main!.querySelector("h1")?.focus();
}

// The API does not, or no longer, believe the credential.
main!.addEventListener("unknown", (event) => {
  signOut();
  show(refusal("You are signed out.", (event as CustomEvent).detail));
});
// Other anchors lead to places of this page.
addEventListener("hashchange", () => location.hash.startsWith("#/") && show());
// Streams end when the page goes, also if the browser keeps it to come back to.
addEventListener("pagehide", () => main!.replaceChildren());
addEventListener("pageshow", (event) => event.persisted && show());
takeToken();
show();
