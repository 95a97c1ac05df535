"""What API keys need on this machine: the pepper of their hashes, the key of the tokens that they are exchanged for."""

import json
import secrets
from pathlib import Path

from api_common.authn import public_jwk
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tools.secrets import files


def ensure(folder: Path) -> None:
    """Writes `internal.pem`, `internal-jwks.json` and `pepper` where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    private, jwks, pepper = folder / "internal.pem", folder / "internal-jwks.json", folder / "pepper"
    if not private.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        files.write(private, pem)
        jwks.unlink(missing_ok=True)
    if not jwks.exists():
        published = json.dumps({"keys": [public_jwk(private.read_bytes())]}, indent=2)
        files.write(jwks, f"{published}\n".encode(), mode=0o644)
    if not pepper.exists():
        files.write(pepper, secrets.token_hex(32).encode())
