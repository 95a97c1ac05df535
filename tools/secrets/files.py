"""Writes files that a running process may read at any instant."""

import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def write(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Writes a file and moves it into place, so that nobody reads half of it and only ``mode`` ever grants access."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    draft.replace(path)


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def write_key_set(path: Path, *privates: Path) -> None:
    """Writes the public halves of keys as a JWK Set, which every user may read."""
    # It takes a second to import, and `make token`, which runs often, makes no key.
    from api_common.authn import public_jwk

    keys = [public_jwk(private.read_bytes()) for private in privates]
    write(path, f"{json.dumps({'keys': keys}, indent=2)}\n".encode(), mode=0o644)
