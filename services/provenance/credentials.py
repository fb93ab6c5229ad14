"""The certificate and key by which manifests are signed: an operator's, or made for development."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from services.core.errors import InvalidParameter
from services.provenance.settings import Algorithm, ProvenanceSettings

DEVELOPMENT_FILE = "development.pem"
DEVELOPMENT_CA_FILE = "development-ca.pem"
DEVELOPMENT_DAYS = 730
RENEWED_DAYS = 30
"""A development certificate that ends sooner than this is made anew."""
C2PA_CLAIM_SIGNING = ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
"""What C2PA 2.x asks for; older verifiers look for e-mail protection."""
UNTRUSTED = "development certificate: verifiers will call it untrusted"

_BEGIN_KEY = b"-----BEGIN PRIVATE KEY-----"
_PEM = serialization.Encoding.PEM
_EARLIER = datetime.timedelta(hours=1)
"""Clocks differ; a certificate is good from a little before it was made."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What signs. The key is kept out of ``repr``, and so out of logs.

    Attributes:
        chain: PEM certificates, the signing one first.
        algorithm: how the key signs.
        development: whether they were made here, and nobody trusts them.
        expires: the end of the signing certificate's validity.
        key: PEM, unencrypted.
    """

    chain: bytes
    algorithm: Algorithm
    development: bool
    expires: datetime.datetime
    key: bytes = field(repr=False)

    @property
    def anchor(self) -> bytes:
        """The last certificate of the chain, by which a verifier can be told to trust the rest."""
        return _certificates(self.chain)[-1].public_bytes(_PEM)


def load_credentials(settings: ProvenanceSettings, folder: Path) -> Credentials:
    """The operator's credentials, or those for development.

    Args:
        settings: say where the operator's are.
        folder: where those for development are kept; they are made where there are none. Every
            process that shares the folder shares them.

    Raises:
        InvalidParameter: a file is missing, is no PEM, can be read by everybody, or the two do not
            belong together.
    """
    if settings.certificate_file is None or settings.key_file is None:
        try:
            return _for_development(folder)
        except OSError as error:
            raise InvalidParameter(
                f"no development certificate can be kept in {folder} ({error.strerror}); make the "
                "folder writable, or set ATELIER_PROVENANCE__CERTIFICATE_FILE and "
                "ATELIER_PROVENANCE__KEY_FILE"
            ) from error
    chain = _read(settings.certificate_file, "certificate_file")
    key = _read(settings.key_file, "key_file", secret=True)
    return _checked(chain, key, settings.algorithm)


def known_anchor(settings: ProvenanceSettings, folder: Path) -> bytes | None:
    """The authority above the credentials in use, in PEM; nothing is made where there are none.

    Raises:
        InvalidParameter: the operator's certificates cannot be read.
    """
    if settings.certificate_file is None:
        path = folder / DEVELOPMENT_CA_FILE
        return path.read_bytes() if path.is_file() else None
    chain = _read(settings.certificate_file, "certificate_file")
    return _certificates(chain)[-1].public_bytes(_PEM)


def _certificates(chain: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise InvalidParameter(
            "the certificate file holds no PEM certificates", param="certificate_file"
        ) from error


def _read(path: Path, param: str, *, secret: bool = False) -> bytes:
    try:
        with path.expanduser().open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if secret and mode & stat.S_IRWXO:
                raise InvalidParameter(
                    f"{path} can be used by everybody (mode {stat.S_IMODE(mode):o}): "
                    f"chmod o-rwx '{path}'",
                    param=param,
                )
            return file.read()
    except OSError as error:
        raise InvalidParameter(f"{path} cannot be read: {error.strerror}", param=param) from error


def _checked(chain: bytes, key: bytes, algorithm: Algorithm) -> Credentials:
    """Credentials whose parts belong together. What is wrong with a key is not told further."""
    leaf = _certificates(chain)[0]
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        raise InvalidParameter(
            "the key file holds no unencrypted PEM private key", param="key_file"
        ) from None
    if _public_bytes(private.public_key()) != _public_bytes(leaf.public_key()):
        raise InvalidParameter(
            "the key is not that of the first certificate of the chain", param="key_file"
        )
    plain = private.private_bytes(
        _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Credentials(chain, algorithm, False, leaf.not_valid_after_utc, plain)


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _for_development(folder: Path) -> Credentials:
    with _alone(folder):
        path = folder / DEVELOPMENT_FILE
        known = _kept(path)
        if known is not None:
            return known
        chain, key, expires = _make()
        _write(path, chain + key)
        made = Credentials(chain, "es256", True, expires, key)
        _write(folder / DEVELOPMENT_CA_FILE, made.anchor)
        _LOG.warning("made %s: a %s", path, UNTRUSTED)
        return made


def _kept(path: Path) -> Credentials | None:
    """What is kept in a file, unless it is absent, damaged or about to expire."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    chain, begin, rest = content.partition(_BEGIN_KEY)
    try:
        found = _checked(chain, begin + rest, "es256")
    except InvalidParameter:
        return None
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=RENEWED_DAYS)
    if found.expires < soon:
        return None
    return Credentials(chain, "es256", True, found.expires, found.key)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process is in here: several replicas may start at once."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(path: Path, content: bytes) -> None:
    """Put a file, which only its owner can read, in its place at once."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".provenance-")
    try:
        with os.fdopen(handle, "wb") as target:
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _make() -> tuple[bytes, bytes, datetime.datetime]:
    """A certificate below an authority of its own, whose key is forgotten at once.

    Returns:
        The chain, the key of its first certificate, and the end of that one's validity.
    """
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    begin = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - _EARLIER
    end = begin + datetime.timedelta(days=DEVELOPMENT_DAYS)
    issuer = _name("Atelier development authority")

    def certificate(
        subject: x509.Name, public: ec.EllipticCurvePublicKey, *, signs: bool
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(
                x509.BasicConstraints(ca=signs, path_length=0 if signs else None), critical=True
            )
            .add_extension(_usage(signs_certificates=signs), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
                critical=False,
            )
        )

    purposes = x509.ExtendedKeyUsage([C2PA_CLAIM_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION])
    authority = certificate(issuer, authority_key.public_key(), signs=True)
    leaf = certificate(_name("Atelier development signer"), key.public_key(), signs=False)
    leaf = leaf.add_extension(purposes, critical=False)
    chain = b"".join(
        made.sign(authority_key, hashes.SHA256()).public_bytes(_PEM) for made in (leaf, authority)
    )
    private = key.private_bytes(
        _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return chain, private, end


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Atelier (development)"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
