"""What API keys need on this machine: the pepper of their hashes, the key of the tokens that they are exchanged for."""

import secrets
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from tools.secrets import files


def ensure(folder: Path) -> None:
    """Writes `internal.pem`, `internal-jwks.json` and `pepper` where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    private, jwks, pepper = folder / "internal.pem", folder / "internal-jwks.json", folder / "pepper"
    if not private.exists():
        files.write_key(private, ec.generate_private_key(ec.SECP256R1()))
        jwks.unlink(missing_ok=True)
    if not jwks.exists():
        files.write_key_set(jwks, private)
    if not pepper.exists():
        files.write(pepper, secrets.token_hex(32).encode())
