/** Who looks: a credential that lives as long as its tab. */

import { type Ameide, connect } from "@ameide/client";

const [CREDENTIAL, STATE] = ["ameide.credential", "ameide.state"];
/** The issuer of development meshes. */
const DEVELOPMENT = "https://dev.ameide.local/";

let opened: { readonly credential: string; readonly api: Ameide } | undefined;

export const isSignedIn = (): boolean => sessionStorage.getItem(CREDENTIAL) !== null;
export const signIn = (credential: string): void => sessionStorage.setItem(CREDENTIAL, credential);
export const signOut = (): void => sessionStorage.removeItem(CREDENTIAL);
const isKey = (credential: string): boolean => credential.startsWith("ameide_");

/** The API of who is signed in; throws a TypeError if this address is not safe for credentials. */
export function api(): Ameide {
  const credential = sessionStorage.getItem(CREDENTIAL) ?? "";
  if (opened?.credential !== credential) {
    opened = { credential, api: connect(location.origin, { [isKey(credential) ? "apiKey" : "token"]: credential }) };
  }
  return opened.api;
}

/** Who it is, as far as the credential says. */
export function who(): string {
  const credential = sessionStorage.getItem(CREDENTIAL) ?? "";
  try {
    const payload = atob((credential.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/"));
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(payload, (one) => one.charCodeAt(0))));
    return [claims["sub"], claims["tenant_id"]].filter((one) => typeof one === "string").join(" of ");
  } catch {
    return isKey(credential) ? "an API key" : "a token";
  }
}

/** Whether the issuer of this mesh hands out tokens at a click. */
export async function isDevelopment(): Promise<boolean> {
  const answer = await fetch("/.well-known/oauth-protected-resource");
  return answer.ok && (await answer.json()).authorization_servers.includes(DEVELOPMENT);
}

/** Leaves for the development issuer, which leads back here. */
export function askForToken(): void {
  const state = crypto.randomUUID();
  sessionStorage.setItem(STATE, state);
  location.assign(`/console/sign-in?state=${state}`);
}

/** Takes the token that the development issuer has put into the address, if this tab has asked for it. */
export function takeToken(): void {
  const told = new URLSearchParams(location.hash.slice(1));
  const [token, state] = [told.get("token"), told.get("state")];
  if (token !== null) {
    history.replaceState(null, "", location.pathname);
    if (state !== null && state === sessionStorage.getItem(STATE)) {
      signIn(token);
    }
    sessionStorage.removeItem(STATE);
  }
}
