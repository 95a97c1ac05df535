"""Makes a realm of Keycloak whose tokens the mesh believes, in the order of the clicks of docs/issuers.md."""

from typing import Any, Final

import httpx

REALM: Final = "ameide"
CLIENT: Final = "web"
PASSWORD: Final = "not-a-secret"
REDIRECT: Final = "https://app.example/back"

_ADMIN_ONLY: Final = {"view": ["admin"], "edit": ["admin"]}


class Keycloak:
    """The admin API of a Keycloak, as its first administrator."""

    def __init__(self, http: httpx.Client, administrator: str, password: str) -> None:
        self._http = http
        self._form = {
            "grant_type": "password",
            "client_id": "admin-cli",
            "username": administrator,
            "password": password,
        }

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Calls the admin API below the realm; the path of the realm itself is empty."""
        # An administrator's token lives for a minute, which is less than a check takes.
        signed_in = self._http.post("/realms/master/protocol/openid-connect/token", data=self._form).raise_for_status()
        headers = {"authorization": f"Bearer {signed_in.json()['access_token']}"}
        return self._http.request(method, f"/admin/realms{path}", json=body, headers=headers).raise_for_status()

    def make_realm(self) -> None:
        """Steps 1 to 4 of the page."""
        self.call("POST", "", {"realm": REALM, "enabled": True})
        # 1. The attributes that a token is made of. Keycloak drops those that are not declared, without a word.
        profile = self.call("GET", f"/{REALM}/users/profile").json()
        for name in ("tenant_id", "ameide_id"):
            profile["attributes"].append({"name": name, "permissions": _ADMIN_ONLY})
        self.call("PUT", f"/{REALM}/users/profile", profile)
        # 2. Our roles, as roles of the realm.
        for role in ("admin", "editor", "viewer"):
            self.call("POST", f"/{REALM}/roles", {"name": role})
        # 3. The client, and 4. what it puts into access tokens.
        client = {
            "clientId": CLIENT,
            "publicClient": True,
            "directAccessGrantsEnabled": True,
            "redirectUris": [REDIRECT],
            "protocolMappers": [
                _attribute("tenant_id", claim="tenant_id"),
                _mapper("audience", "oidc-audience-mapper", **{"included.custom.audience": "ameide-api"}),
                _attribute("ameide_id", claim="sub"),
            ],
        }
        self.call("POST", f"/{REALM}/clients", client)

    def make_user(self, name: str, *, tenant: str = "", roles: tuple[str, ...] = ()) -> str:
        """Step 5: a person, with a tenant and roles. Returns Keycloak's id of it."""
        user = {
            "username": name,
            "enabled": True,
            "email": f"{name}@acme.example",
            "emailVerified": True,
            "firstName": name,
            "lastName": "Example",
            "attributes": {"tenant_id": [tenant]} if tenant else {},
            "credentials": [{"type": "password", "value": PASSWORD, "temporary": False}],
        }
        location = self.call("POST", f"/{REALM}/users", user).headers["location"]
        user_id = str(location).rpartition("/")[2]
        given = [self.call("GET", f"/{REALM}/roles/{role}").json() for role in roles]
        self.call("POST", f"/{REALM}/users/{user_id}/role-mappings/realm", given)
        return user_id

    def name_stored_user(self, user_id: str, ameide_id: str) -> None:
        """Step 6: tells Keycloak the id of the user in our API, which becomes `sub`."""
        user = self.call("GET", f"/{REALM}/users/{user_id}").json()
        user["attributes"] = {**user.get("attributes", {}), "ameide_id": [ameide_id]}
        self.call("PUT", f"/{REALM}/users/{user_id}", user)

    def add_key(self, name: str, priority: int) -> str:
        """Publishes another signing key; the one of the highest priority signs. Returns its id as a component."""
        realm_id = self.call("GET", f"/{REALM}").json()["id"]
        config = {"priority": [str(priority)], "enabled": ["true"], "active": ["true"], "algorithm": ["RS256"]}
        component = {
            "name": name,
            "providerId": "rsa-generated",
            "providerType": "org.keycloak.keys.KeyProvider",
            "parentId": realm_id,
            "config": config,
        }
        return str(self.call("POST", f"/{REALM}/components", component).headers["location"]).rpartition("/")[2]

    def change_key(self, component: str, **changed: str) -> None:
        """Changes the priority of a key, or takes it away (`enabled="false"`)."""
        found = self.call("GET", f"/{REALM}/components/{component}").json()
        found["config"] |= {name: [value] for name, value in changed.items()}
        self.call("PUT", f"/{REALM}/components/{component}", found)

    def component_of(self, key_id: str) -> str:
        """Returns the component whose key tokens name as `kid`."""
        keys = self.call("GET", f"/{REALM}/keys").json()["keys"]
        return str(next(key["providerId"] for key in keys if key["kid"] == key_id))


def _mapper(name: str, kind: str, **config: str) -> dict[str, Any]:
    return {
        "name": name,
        "protocol": "openid-connect",
        "protocolMapper": kind,
        "config": {"access.token.claim": "true", **config},
    }


def _attribute(name: str, *, claim: str) -> dict[str, Any]:
    config = {"user.attribute": name, "claim.name": claim, "jsonType.label": "String"}
    return _mapper(f"{name} to {claim}", "oidc-usermodel-attribute-mapper", **config)
