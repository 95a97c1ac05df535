"""What API keys need on this machine: the pepper of their hashes, the key of the tokens that they are exchanged for."""

import json
import os
import secrets
from pathlib import Path

from api_common.authn import public_jwk
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


def ensure(folder: Path) -> None:
    """Writes `internal.pem`, `internal-jwks.json` and `pepper` where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    private, jwks, pepper = folder / "internal.pem", folder / "internal-jwks.json", folder / "pepper"
    if not private.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write(private, pem, mode=0o600)
        jwks.unlink(missing_ok=True)
    if not jwks.exists():
        published = json.dumps({"keys": [public_jwk(private.read_bytes())]}, indent=2)
        _write(jwks, f"{published}\n".encode(), mode=0o644)
    if not pepper.exists():
        _write(pepper, secrets.token_hex(32).encode(), mode=0o600)


def _write(path: Path, content: bytes, *, mode: int) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    draft.replace(path)
