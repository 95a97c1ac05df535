import datetime as dt
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tools.secrets import certificates
from tools.topology import NAMED


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestEnsure:
    def test_makes_an_authority_and_a_leaf_for_everybody(self, tmp_path: Path) -> None:
        certificates.ensure(tmp_path)
        names = ("ca", "edge", "limits", *NAMED)
        assert {path.name for path in tmp_path.iterdir()} == {
            f"{name}.{kind}" for name in names for kind in ("pem", "key")
        }
        for name in names[1:]:
            leaf = certificate(tmp_path, name)
            leaf.verify_directly_issued_by(certificate(tmp_path, "ca"))
            key = leaf.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            assert key.curve.name == "secp256r1"

    def test_names_a_service_by_spiffe_and_by_where_it_listens(self, tmp_path: Path) -> None:
        certificates.ensure(tmp_path)
        names = certificate(tmp_path, "users").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://ameide.local/users"]
        assert names.get_values_for_type(x509.DNSName) == ["localhost", "users"]
        assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]

    def test_shows_private_keys_to_nobody(self, tmp_path: Path) -> None:
        certificates.ensure(tmp_path)
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*.key")} == {0o600}

    def test_keeps_what_is_good(self, tmp_path: Path) -> None:
        certificates.ensure(tmp_path)
        before = contents(tmp_path)
        certificates.ensure(tmp_path)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("damage", ["missing", "garbage", "another key", "old"])
    def test_renews_one_leaf(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
        certificates.ensure(tmp_path)
        before = contents(tmp_path)
        match damage:
            case "missing":
                (tmp_path / "users.pem").unlink()
            case "garbage":
                (tmp_path / "users.pem").write_text("no certificate")
            case "another key":
                (tmp_path / "users.key").write_bytes(before["agents.key"])
            case _:
                (tmp_path / "users.pem").unlink()
                monkeypatch.setattr(certificates, "LEAF_DAYS", 6)
                certificates.ensure(tmp_path)
                monkeypatch.undo()
                short = certificate(tmp_path, "users").not_valid_after_utc
                assert short < dt.datetime.now(dt.UTC) + dt.timedelta(days=7)
        certificates.ensure(tmp_path)
        after = contents(tmp_path)
        assert {name for name in after if after[name] != before[name]} == {"users.pem", "users.key"}
        assert certificate(tmp_path, "users").not_valid_after_utc > dt.datetime.now(dt.UTC) + dt.timedelta(days=80)

    def test_renews_every_leaf_with_a_new_authority(self, tmp_path: Path) -> None:
        certificates.ensure(tmp_path)
        before = contents(tmp_path)
        (tmp_path / "ca.key").unlink()
        certificates.ensure(tmp_path)
        after = contents(tmp_path)
        assert [name for name in after if after[name] == before[name]] == []
        for name in certificates.NAMES:
            certificate(tmp_path, name).verify_directly_issued_by(certificate(tmp_path, "ca"))
