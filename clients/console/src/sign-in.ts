/** Asks who looks. */

import { h } from "./html.js";
import { askForToken, isDevelopment, signIn } from "./session.js";
import { heading, View } from "./view.js";

export class SignInView extends View {
  constructor(
    private readonly done: () => void,
    private readonly complaint: HTMLElement | undefined,
  ) {
    super();
  }

  connectedCallback(): void {
    const credential = h("input", { name: "credential", type: "password", autocomplete: "off", required: true });
    const submit = (event: Event): void => {
      event.preventDefault();
      signIn(credential.value.trim());
      this.done();
    };
    const [button, local] = [h("button", { class: "primary" }, "Sign in"), h("div")];
    const form = h(
      "form",
      { submit },
      h("label", {}, h("span", {}, "Token or API key"), credential),
      h("p", { class: "hint" }, "This tab keeps it until you close it or sign out. It is sent to this API only."),
      button,
    );
    this.append(h("section", { class: "card" }, heading("Sign in"), this.complaint, local, form));
    void this.attempt("The issuer is not known.", async () => {
      if (await isDevelopment()) {
        button.className = "";
        const said = ["This is a development mesh: its issuer makes you a token. Or paste what ", h("code", {}, "make token"), " prints."];
        local.append(h("button", { type: "button", class: "primary", click: askForToken }, "Sign in as Ada, an admin"), h("p", { class: "hint" }, ...said));
      }
    });
  }
}
customElements.define("ameide-sign-in", SignInView);
