"""Whose tokens the mesh believes: the development issuer's, or another's.

`make up ISSUER=https://login.example.com/realms/ameide CLAIMS=keycloak`; docs/issuers.md says what an issuer has to do.
"""

import os
import shutil
from pathlib import Path
from string import Template
from typing import Any, Final
from urllib.parse import urlsplit

from tools.edge.build import ENVOY
from tools.topology import AUDIENCE, ISSUER, Mesh, MeshError

_KEY_SETS: Final = {"keycloak": "/protocol/openid-connect/certs", "auth0": "/.well-known/jwks.json"}
"""Where issuers of a kind publish their keys; for others, `JWKS` is the URL."""
_LOCAL_KEYS: Final = '"http://issuer/jwks.json", cluster: issuer'
_PUBLIC_AUTHORITIES: Final = "/etc/ssl/certs/ca-certificates.crt"


def settings(mesh: Mesh) -> dict[str, Any]:
    """Returns what tells a service of the issuer; it discovers the keys of another one itself.

    Raises:
        MeshError: a variable of `make up` is malformed.
    """
    if not mesh.other_issuer:
        return {"AUTH_ISSUER": ISSUER, "AUTH_AUDIENCE": AUDIENCE, "AUTH_JWKS_PATH": mesh.issuer / "jwks.json"}
    # Needed for another issuer only, and a third of what `make up` loads.
    from api_common.authn import CLAIM_MAPS

    audience, claims = os.environ.get("AUDIENCE", AUDIENCE), os.environ.get("CLAIMS", "generic")
    if claims not in CLAIM_MAPS or not urlsplit(mesh.other_issuer).hostname:
        raise MeshError(f"ISSUER must be the URL that tokens name, and CLAIMS one of {', '.join(CLAIM_MAPS)}.")
    return {"AUTH_ISSUER": mesh.other_issuer, "AUTH_AUDIENCE": audience, "AUTH_CLAIMS": claims}


def edge(mesh: Mesh) -> dict[str, Any]:
    """Returns what tells the edge, as arguments of its `lay_out`: the folder of its environment, or a changed copy."""
    source = Path(os.environ.get("EDGE_ENVIRONMENT", ENVOY / "local"))
    if not mesh.other_issuer:
        return {"environment": source}
    issuer, audience, claims = settings(mesh).values()
    url = os.environ.get("JWKS", issuer.rstrip("/") + _KEY_SETS.get(claims, "/jwks.json"))
    target = shutil.copytree(source, mesh.folder / "environment", dirs_exist_ok=True)
    for name in ("authentication.yaml", "audience.lua", "edge.json"):
        text = (source / name).read_text().replace(AUDIENCE, audience).replace(ISSUER, issuer)
        (target / name).write_text(text.replace(_LOCAL_KEYS, f'"{url}", cluster: other_issuer'))
    parts, authority = urlsplit(url), os.environ.get("SSL_CERT_FILE", _PUBLIC_AUTHORITIES)
    port = parts.port or {"http": 80}.get(parts.scheme, 443)
    template = Template((ENVOY / "other_issuer.yaml").read_text())
    cluster = template.substitute(host=parts.hostname, port=port, authority=authority)
    with (target / "clusters.yaml").open("a") as clusters:
        clusters.write(cluster.partition("    # Over https")[0] if parts.scheme == "http" else cluster)
    return {"environment": target, "claims": claims}
