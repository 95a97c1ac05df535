"""The development identity: an issuer of this machine only, and the tokens it signs.

SUB=ada TENANT=acme ROLES=admin TTL=3600 python -m tools.identity
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tools.topology import AUDIENCE, ISSUER, Mesh, MeshError


def ensure(folder: Path) -> Path:
    """Writes `private.pem` and `jwks.json` where missing; returns the key set's path."""
    private, jwks = folder / "private.pem", folder / "jwks.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not private.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        # Moved into place whole: another `make token` may be looking.
        draft = folder / f"private.{os.getpid()}.new"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        draft.replace(private)
        jwks.unlink(missing_ok=True)
    if not jwks.exists():
        draft = folder / f"jwks.{os.getpid()}.new"
        draft.write_text(json.dumps({"keys": [_public_jwk(_load(private))]}, indent=2) + "\n")
        draft.replace(jwks)
    return jwks


def mint(folder: Path, *, sub: str, tenant: str, roles: Sequence[str], ttl_seconds: int = 3600) -> str:
    """Signs a token of the development issuer; a negative ``ttl_seconds`` gives one that has expired."""
    ensure(folder)
    key = _load(folder / "private.pem")
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": sub,
        "tenant_id": tenant,
        "roles": list(roles),
        "email": f"{sub}@{tenant}.example",
        "iat": now,
        "exp": now + ttl_seconds,
        "jti": str(uuid.uuid4()),
    }
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": _public_jwk(key)["kid"]})


def _load(private: Path) -> rsa.RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(private.read_bytes(), password=None)
    except ValueError as error:
        raise MeshError(f"{private} is no private key ({error}). `make reset` makes a new one.") from error
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _public_jwk(key: rsa.RSAPrivateKey) -> dict[str, str]:
    public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    # RFC 7638: the same key has the same name, in whichever file it stands.
    members = json.dumps({name: public[name] for name in ("e", "kty", "n")}, separators=(",", ":"), sort_keys=True)
    kid = hashlib.sha256(members.encode()).hexdigest()[:16]
    return {"kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": public["n"], "e": public["e"]}


def main() -> None:
    """Prints the token that the environment describes, and nothing else."""
    ttl = os.environ.get("TTL") or "3600"
    try:
        token = mint(
            Mesh.from_environment().issuer,
            sub=os.environ.get("SUB") or "ada",
            tenant=os.environ.get("TENANT") or "acme",
            roles=[role.strip() for role in (os.environ.get("ROLES") or "admin").split(",") if role.strip()],
            ttl_seconds=int(ttl),
        )
    except ValueError:
        raise SystemExit(f"TTL must be a whole number of seconds, not {ttl!r}") from None
    except MeshError as error:
        raise SystemExit(str(error)) from None
    print(token)


if __name__ == "__main__":
    main()
