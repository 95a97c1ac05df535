"""Development certificates: one authority, and a leaf for the edge and for each service. Never used in production."""

import datetime
import ipaddress
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tools.secrets import files
from tools.topology import LIMITS, SERVICES

NAMES: Final = ("edge", *(service.name for service in (*SERVICES, LIMITS)))
TRUST_DOMAIN: Final = "ameide.local"

AUTHORITY_DAYS: Final = 3650
LEAF_DAYS: Final = 90
RENEW_DAYS: Final = 7
"""A certificate that expires sooner is replaced."""

Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]
"""A certificate and its private key."""


def ensure(folder: Path) -> None:
    """Writes `ca.pem`, `ca.key` and `<name>.pem`, `<name>.key` for each of `NAMES`, unless a good pair is there.

    A new authority makes every leaf anew. Files are moved into place: nothing that runs ever reads half of one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = _load(folder, "ca") or _store(folder, "ca", _make_authority())
    for name in NAMES:
        if _load(folder, name, authority[0]) is None:
            _store(folder, name, _make_leaf(name, authority))


def _make_authority() -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Ameide development authority")])
    others = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    unused = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    usage = x509.KeyUsage(key_cert_sign=True, crl_sign=True, **unused)
    certificate = (
        _builder(name, name, key.public_key(), days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _make_leaf(name: str, authority: Pair) -> Pair:
    """Makes a certificate for servers and clients: every process is both."""
    issuer, issuer_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    hosts = [x509.DNSName("localhost"), x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/{name}"), *hosts])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        _builder(subject, issuer.subject, key.public_key(), days=LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .add_extension(usage, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # An hour ago, because clocks of containers and laptops differ.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _load(folder: Path, name: str, authority: x509.Certificate | None = None) -> Pair | None:
    """Returns the pair if both files are valid, match, do not expire soon, and ``authority``, if given, signed them."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
        if authority is not None:
            certificate.verify_directly_issued_by(authority)
    except (FileNotFoundError, ValueError, InvalidSignature):
        return None
    renew_at = certificate.not_valid_after_utc - datetime.timedelta(days=RENEW_DAYS)
    if datetime.datetime.now(datetime.UTC) >= renew_at:
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None
    return certificate, key


def _store(folder: Path, name: str, pair: Pair) -> Pair:
    certificate, key = pair
    files.write_key(folder / f"{name}.key", key)
    files.write(folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return pair
