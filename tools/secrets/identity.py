"""The development identity: an issuer of this machine only, and the tokens it signs.

SUB=ada TENANT=acme ROLES=admin TTL=3600 python -m tools.secrets.identity
python -m tools.secrets.identity rotate publish
"""

import json
import os
import re
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tools.secrets import files
from tools.topology import AUDIENCE, ISSUER, Mesh, MeshError

PUBLISH_SECONDS: Final = 30
"""How long until the edge (`cache_duration`) and the services (`KeySet.MAX_AGE_SECONDS`) know a new key set."""
LONGEST_SECONDS: Final = 24 * 3600
"""What services accept; to ask them loads a service, which takes longer than all that a token needs."""
ROTATION: Final = {
    "publish": f"Published. In {PUBLISH_SECONDS} s: make rotate-keys STEP=activate",
    "activate": "New tokens have the new key. When the last old one has expired: make rotate-keys STEP=retire",
    "retire": f"Retired. In {PUBLISH_SECONDS} s nobody believes the old key.",
}
"""The steps that replace the signing key, in order, and what `make rotate-keys` says after each."""


def ensure(folder: Path) -> Path:
    """Writes `private.pem` and `jwks.json` where missing; returns the key set's path."""
    private, jwks = folder / "private.pem", folder / "jwks.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not private.exists():
        _make_key(private)
        jwks.unlink(missing_ok=True)
    if not jwks.exists():
        files.write_key_set(jwks, private)
    return jwks


def rotate(folder: Path, step: str) -> None:
    """Takes one step of `ROTATION`; one that was taken already changes nothing.

    `publish` makes a second key known, `activate` signs with it and destroys the first one's private half, `retire`
    takes the first one out of the key set: then no token of it is believed any more.

    Raises:
        MeshError: the step before has not been taken.
    """
    jwks, private, following = ensure(folder), folder / "private.pem", folder / "next.pem"
    known = json.loads(jwks.read_text())["keys"]
    match step:
        case "publish" if not following.exists() and len(known) > 1:
            raise MeshError("The rotation before is not over: STEP=retire first.")
        case "publish":
            if not following.exists():
                _make_key(following)
            files.write_key_set(jwks, private, following)
        case "activate":
            if following.exists():
                following.replace(private)
            elif len(known) == 1:
                raise MeshError("There is no other key to sign with: STEP=publish first.")
        case "retire":
            if following.exists():
                raise MeshError("Tokens are still signed with the old key: STEP=activate first.")
            files.write_key_set(jwks, private)


def mint(folder: Path, *, sub: str, tenant: str, roles: Sequence[str], ttl_seconds: int = 3600) -> str:
    """Signs a token of the development issuer; a negative ``ttl_seconds`` gives one that has expired."""
    known = json.loads(ensure(folder).read_text())["keys"]
    key = _load(folder / "private.pem")
    modulus = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)["n"]
    key_id = next((one["kid"] for one in known if one["n"] == modulus), None)
    if key_id is None:
        raise MeshError("The key set does not hold the signing key. `make reset` makes new ones.")
    now = int(time.time())
    caller = {"sub": sub, "tenant_id": tenant, "roles": list(roles), "email": f"{sub}@{tenant}.example"}
    token = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + ttl_seconds, "jti": str(uuid.uuid4())}
    return jwt.encode(token | caller, key, algorithm="RS256", headers={"kid": key_id})


def _make_key(path: Path) -> None:
    files.write_key(path, rsa.generate_private_key(public_exponent=65537, key_size=2048))


def _load(private: Path) -> rsa.RSAPrivateKey:
    try:
        # We made it: to check its numbers again takes many times as long as to sign.
        key = serialization.load_pem_private_key(private.read_bytes(), None, unsafe_skip_rsa_key_validation=True)
    except ValueError as error:
        raise MeshError(f"{private} is no private key ({error}). `make reset` makes a new one.") from error
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def main() -> None:
    """Prints the token that the environment describes, and nothing else; or takes a step of a rotation."""
    try:
        match sys.argv[1:]:
            case []:
                _print_token()
            case ["rotate", step] if step in ROTATION:
                rotate(Mesh.from_environment().issuer, step)
                print(ROTATION[step])
            case _:
                raise SystemExit(f"usage: make token, or make rotate-keys STEP={' | '.join(ROTATION)}")
    except MeshError as error:
        raise SystemExit(str(error)) from None


def _print_token() -> None:
    ttl = os.environ.get("TTL") or "3600"
    if not re.fullmatch(r"-?\d+", ttl) or int(ttl) > LONGEST_SECONDS:
        raise SystemExit(f"TTL must be a whole number of seconds up to {LONGEST_SECONDS}, not {ttl!r}")
    token = mint(
        Mesh.from_environment().issuer,
        sub=os.environ.get("SUB") or "ada",
        tenant=os.environ.get("TENANT") or "acme",
        roles=[role.strip() for role in os.environ.get("ROLES", "admin").split(",") if role.strip()],
        ttl_seconds=int(ttl),
    )
    print(token)


if __name__ == "__main__":
    main()
