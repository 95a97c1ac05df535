"""The secrets behind API keys on this machine."""

import json
from pathlib import Path

from api_common.authn import public_jwk

from tools.secrets import internal_keys

SECRETS = ("internal.pem", "pepper")


def test_are_kept_and_readable_by_nobody_else(tmp_path: Path) -> None:
    internal_keys.ensure(tmp_path)
    first = {name: (tmp_path / name).read_bytes() for name in (*SECRETS, "internal-jwks.json")}
    internal_keys.ensure(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in first} == first
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in SECRETS} == {0o600}
    assert len(first["pepper"]) >= 32


def test_publish_the_key_that_signs(tmp_path: Path) -> None:
    internal_keys.ensure(tmp_path)
    (tmp_path / "internal.pem").unlink()
    internal_keys.ensure(tmp_path)
    published = json.loads((tmp_path / "internal-jwks.json").read_text())
    assert published == {"keys": [public_jwk((tmp_path / "internal.pem").read_bytes())]}
