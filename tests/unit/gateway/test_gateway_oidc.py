"""Tokens of an issuer: only those that it signed, for us, now, by an algorithm with public keys."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from services.core.errors import InvalidApiKey, InvalidParameter, Unavailable
from services.gateway.callers import Caller
from services.gateway.fetch import check_url, fetch
from services.gateway.oidc import (
    AGAIN_SECONDS,
    KEEP_SECONDS,
    OidcSettings,
    TokenVerifier,
    parse_jwks,
)

ISSUER, AUDIENCE = "https://issuer.example", "atelier"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_EC_KEY = ec.generate_private_key(ec.SECP256R1())


def public_jwk(key: Any, key_id: str, **more: Any) -> dict[str, Any]:
    """The public half as an entry of a key set."""
    kind = (
        jwt.algorithms.RSAAlgorithm
        if isinstance(key, rsa.RSAPrivateKey)
        else jwt.algorithms.ECAlgorithm
    )
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig", **more}


def key_set(**keys: Any) -> str:
    return json.dumps({"keys": [public_jwk(key, name) for name, key in keys.items()]})


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(key_set(rsa=RSA_KEY, ec=EC_KEY))
    return path


def token(key: Any = RSA_KEY, algorithm: str = "RS256", key_id: str = "rsa", **claims: Any) -> str:
    """A token that is good unless told otherwise; a claim of ``None`` is left out."""
    now = time.time()
    said = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "somebody",
        "exp": now + 300,
        "scope": "openid generate",
        **claims,
    }
    kept = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm, headers={"kid": key_id})


def verifier(jwks: Path | str, **settings: Any) -> TokenVerifier:
    return TokenVerifier(OidcSettings(issuer=ISSUER, audience=AUDIENCE, jwks=str(jwks), **settings))


def caller(jwks: Path, text: str, **settings: Any) -> Caller:
    return asyncio.run(verifier(jwks, **settings).caller(text))


def test_a_good_token_says_who_and_what(jwks: Path) -> None:
    found = caller(jwks, token(), rate="60/min")
    assert found.scopes == {"generate"}
    assert found.rate is not None
    assert found.owner == caller(jwks, token(EC_KEY, "ES256", "ec")).owner
    assert found.owner != caller(jwks, token(sub="somebody else")).owner
    assert "somebody" not in found.owner


def test_scopes_are_words_or_a_list_with_a_prefix(jwks: Path) -> None:
    prefixed = {"scope_claim": "roles", "scope_prefix": "atelier:"}
    text = token(roles=["atelier:edit", "generate", "atelier:fly", 7])
    assert caller(jwks, text, **prefixed).scopes == {"edit"}
    for nothing in (None, "", 5, {}):
        assert caller(jwks, token(scope=nothing)).scopes == frozenset()


def _none() -> str:
    return jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "exp": 9e9}, "", algorithm="none"
    )


def _hmac_by_the_public_key(of: bytes) -> str:
    """What a verifier takes that lets the token choose between HMAC and RSA (CVE-2015-9256)."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    header = {"alg": "HS256", "typ": "JWT", "kid": "rsa"}
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "exp": 9_000_000_000, "scope": "generate"}
    signed = part(json.dumps(header).encode()) + b"." + part(json.dumps(claims).encode())
    return (signed + b"." + part(hmac.digest(of, signed, hashlib.sha256))).decode()


PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
BAD: dict[str, Callable[[], str]] = {
    "no algorithm": _none,
    "HMAC by the public key": lambda: _hmac_by_the_public_key(PEM),
    "HMAC by the key set": lambda: _hmac_by_the_public_key(key_set(rsa=RSA_KEY).encode()),
    "another's signature": lambda: token(OTHER_EC_KEY, "ES256", "ec"),
    "another's key id": lambda: token(EC_KEY, "ES256", "rsa"),
    "unknown key id": lambda: token(key_id="nobody"),
    "algorithm that is not taken": lambda: token(algorithm="RS512"),
    "another issuer": lambda: token(iss="https://other.example"),
    "another audience": lambda: token(aud="somebody else"),
    "expired": lambda: token(exp=time.time() - 60),
    "not yet": lambda: token(nbf=time.time() + 60),
    "without an end": lambda: token(exp=None),
    "without a subject": lambda: token(sub=None),
    "without an audience": lambda: token(aud=None),
    "without an issuer": lambda: token(iss=None),
    "cut": lambda: token()[:-4],
    "another's claims": lambda: ".".join(
        (token().split(".")[0], token(sub="root").split(".")[1], token().split(".")[2])
    ),
    "too long": lambda: token(scope="generate " * 2000),
    "nonsense": lambda: "a.b.c",
    "nothing": lambda: "..",
}


@pytest.mark.parametrize("why", BAD)
def test_any_other_token_is_refused(jwks: Path, why: str) -> None:
    with pytest.raises(InvalidApiKey):
        caller(jwks, BAD[why]())


def test_clocks_may_differ_a_little(jwks: Path) -> None:
    late = token(exp=time.time() - 20)
    assert caller(jwks, late).scopes == {"generate"}
    with pytest.raises(InvalidApiKey, match="expired"):
        caller(jwks, late, leeway=0)


def test_a_key_is_for_its_own_algorithm_alone(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [public_jwk(RSA_KEY, "rsa", alg="PS256")]}))
    both = {"algorithms": ("RS256", "PS256")}
    assert caller(path, token(algorithm="PS256"), **both)
    with pytest.raises(InvalidApiKey, match="not the key's"):
        caller(path, token(), **both)


def test_secret_keys_of_a_set_are_never_used(tmp_path: Path) -> None:
    secret = {"kty": "oct", "kid": "rsa", "k": base64.urlsafe_b64encode(b"s" * 32).decode()}
    sealing = public_jwk(RSA_KEY, "sealing", use="enc")
    assert parse_jwks(json.dumps({"keys": [secret, sealing, {"kty": "RSA"}, 3]}).encode()) == {}


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS1"])
def test_the_settings_take_public_keys_only(algorithm: str) -> None:
    with pytest.raises(ValidationError):
        OidcSettings(issuer="i", audience="a", jwks="f", algorithms=(algorithm,))  # type: ignore[arg-type]


def test_new_keys_are_found_without_a_restart_but_not_at_anybodys_bidding(jwks: Path) -> None:
    clock = [0.0]

    async def scenario() -> None:
        settings = OidcSettings(issuer=ISSUER, audience=AUDIENCE, jwks=str(jwks))
        tokens = TokenVerifier(settings, now=lambda: clock[0])
        await tokens.caller(token())
        jwks.write_text(key_set(new=OTHER_EC_KEY))
        rotated = token(OTHER_EC_KEY, "ES256", "new")
        with pytest.raises(InvalidApiKey):
            await tokens.caller(rotated)
        clock[0] += AGAIN_SECONDS + 1
        await tokens.caller(rotated)
        with pytest.raises(InvalidApiKey):
            await tokens.caller(token())
        jwks.unlink()
        clock[0] += KEEP_SECONDS + 1
        await tokens.caller(rotated)  # an issuer that is away for a while locks nobody out

    asyncio.run(scenario())


def test_without_keys_nobody_can_be_checked(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="log says why"):
        caller(tmp_path / "none.json", token())


def test_the_service_takes_tokens_beside_keys(jwks: Path, connect: Any) -> None:
    client = connect(oidc={"issuer": ISSUER, "audience": AUDIENCE, "jwks": str(jwks)})
    ask = {"model": "shapes-ldm", "prompt": "a star", "seed": 1}

    def post(path: str, text: str) -> int:
        headers = {"authorization": f"Bearer {text}"}
        return int(client.post(path, json=ask, headers=headers).status_code)

    assert client.get("/v1/models").status_code == 401
    assert post("/v1/generate", token()) == 200
    assert post("/v1/generate", token(scope="edit")) == 403
    assert post("/v1/generate", token(aud="other")) == 401
    assert post("/v1/generate", _none()) == 401


class Issuer(http.server.BaseHTTPRequestHandler):
    """Answers by path."""

    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("location", "/keys")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        if self.path == "/endless":
            self.wfile.write(b" " * (1 << 20))
        else:
            self.wfile.write(key_set(rsa=RSA_KEY).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def issuer() -> Iterator[str]:
    """The URL of a server with keys."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Issuer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_keys_come_over_http(issuer: str) -> None:
    assert asyncio.run(verifier(f"{issuer}/keys").caller(token())).scopes == {"generate"}


@pytest.mark.parametrize(
    ("path", "why"), [("endless", "larger than"), ("redirect", "answered 302")]
)
def test_fetching_has_limits(issuer: str, path: str, why: str) -> None:
    with pytest.raises(Unavailable, match=why):
        asyncio.run(fetch(f"{issuer}/{path}", max_bytes=1000))


@pytest.mark.parametrize(
    "url",
    ["http://example.org/keys", "ftp://example.org", "http://10.0.0.1/", "http://", "file:///"],
)
def test_only_https_leaves_this_machine(url: str) -> None:
    with pytest.raises(InvalidParameter, match="https"):
        check_url(url)
