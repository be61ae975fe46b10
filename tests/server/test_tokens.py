"""Tokens at a server: whoever has a good one gets in for as long as it is good, and nobody else does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from http_server import RawClient, RunningServer, payment_of, post, wait_for
from structlog.testing import capture_logs
from token_issuer import AUDIENCE, ISSUER, Issuer

from tailrace.errors import SetupError, UnauthorizedError, UnavailableError
from tailrace.server.callers import KeysAndTokens
from tailrace.server.http.forms import HeadMemory
from tailrace.server.key_file import changing, make_key
from tailrace.server.keys import Keys
from tailrace.server.options import ServeOptions
from tailrace.server.tokens import key_set
from tailrace.server.tokens.key_set import KeySet, check_source
from tailrace.server.tokens.tokens import TOKEN_BYTES_MAX, VAIN_NS_MAX, TokenRules, Tokens

RULES = TokenRules(ISSUER, AUDIENCE)
OTHER = "/v1/pipelines/log_with_fallback/predict"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    """Return who signs."""
    return Issuer(tmp_path_factory.mktemp("tokens") / "jwks.json")


@pytest.fixture
def tokens(http_server: RunningServer, issuer: Issuer, tmp_path: Path) -> Iterator[Tokens]:
    """Have the server ask for tokens, or keys of a file; look once a second is the test's."""
    issuer.publish(*issuer.keys)
    shared = http_server.http.shared
    tokens = Tokens(KeySet(str(issuer.file)), RULES, shared.count_failure)
    file = tmp_path / "keys.json"
    with changing(file, create=True) as known:
        known.append(make_key("nobody", ["pipelines/*"])[1])

    def begin(keys: Any) -> None:
        shared.keys, shared.heads = keys, HeadMemory(shared.limits.body_bytes_max)

    http_server.on_loop(begin, KeysAndTokens(Keys(file, shared.count_failure), tokens))
    yield tokens
    http_server.on_loop(begin, None)


def ask(client: RawClient, token: str, path: str = "/v1/pipelines/log/predict") -> int:
    """Return the status that a caller with a token is answered."""
    return client.ask(post(payment_of(), f"Authorization: Bearer {token}", path=path)).status


def encoded(part: Any) -> str:
    """Return a part of a token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("number", ["e", "o", "r"])
def test_token_opens_what_it_says(tokens: Tokens, client: RawClient, issuer: Issuer, number: str) -> None:
    """By each way of signing; its head is remembered, and what its scopes leave out is forbidden."""
    token = issuer.sign(number)
    assert [ask(client, token) for _ in range(3)] == [200] * 3
    assert ask(client, token, OTHER) == 403
    assert ask(client, issuer.sign(number, scope=None, scp=["pipelines/*"]), OTHER) == 200
    assert ask(client, issuer.sign(number, scope=None)) == 403


def forgeries(issuer: Issuer) -> dict[str, str]:
    """Return tokens that must open nothing, by what is wrong with them."""
    good = issuer.sign("e")
    head, claims, signature = good.split(".")
    said, now = json.loads(base64.urlsafe_b64decode(claims + "==")), int(time.time())
    own = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(own.public_key()))
    changed: dict[str, dict[str, Any]] = {
        "expired": {"exp": now - 60}, "not yet": {"nbf": now + 60}, "from tomorrow": {"iat": now + 86_400},
        "other audience": {"aud": "other"}, "audience in a longer one": {"aud": "tailrace2"},
        "no audience": {"aud": None}, "other issuer": {"iss": "https://id.example.evil"}, "no issuer": {"iss": None},
        "for ever": {"exp": None}, "end of infinity": {"exp": float("inf")}, "end of text": {"exp": "soon"},
        "end of a list": {"exp": [1]}, "huge end": {"exp": -(10**400)},
    }  # fmt: skip
    heads: dict[str, dict[str, Any]] = {
        "none": {"alg": "none"}, "none, signed": {"alg": "None"}, "unknown signer": {"kid": "x"},
        "signer of a list": {"kid": ["e"]}, "critical": {"crit": ["exp"]}, "unencoded": {"b64": False},
    }  # fmt: skip
    return {
        **{how: f"{encoded({'alg': 'ES256', 'kid': 'e'} | part)}.{claims}.{signature}" for how, part in heads.items()},
        **{how: _signed(issuer, {name: value for name, value in (said | part).items() if value is not None})
           for how, part in changed.items()},
        "none, unsigned": f"{encoded({'alg': 'none', 'kid': 'e'})}.{claims}.",
        "confused": _confused(issuer, "r", claims),
        "confused with EC": _confused(issuer, "e", claims),
        "other claims": f"{head}.{encoded(said | {'sub': 'admin', 'scope': 'pipelines/*'})}.{signature}",
        "other key": jwt.encode(said, own, "ES256", headers={"kid": "e"}),
        "own key": jwt.encode(said, own, "ES256", headers={"kid": "e", "jwk": public, "jku": "https://evil.example"}),
        "way of another key": issuer.sign("r", head={"kid": "e"}),
        "cut short": good[:-9], "no signature": f"{head}.{claims}.", "too long": good + "A" * TOKEN_BYTES_MAX,
        "dots": "..", "no base64": "a!.b!.c!", "no object": f"{encoded([1])}.{encoded(1)}.{signature}",
        "deep": f"{base64.urlsafe_b64encode(b'[' * 3000).decode()}.{claims}.{signature}",
    }  # fmt: skip


def _confused(issuer: Issuer, number: str, claims: str) -> str:
    """Return a token signed by an HMAC whose secret is a public key, which all know."""
    begin = f"{encoded({'alg': 'HS256', 'kid': number, 'typ': 'JWT'})}.{claims}"
    mac = hmac.digest(issuer.pem(number), begin.encode(), hashlib.sha256)
    return f"{begin}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def _signed(issuer: Issuer, claims: dict[str, Any]) -> str:
    """Sign claims as they are, whatever a library would say of them."""
    begin = f"{encoded({'alg': 'EdDSA', 'kid': 'o'})}.{encoded(claims)}"
    signature = issuer.keys["o"][0].sign(begin.encode())
    return f"{begin}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def test_bad_token_opens_nothing(tokens: Tokens, client: RawClient, issuer: Issuer) -> None:
    """401, whatever is wrong with it; nothing of it is told or logged, and the next good one gets in."""
    for how, token in forgeries(issuer).items():
        with capture_logs() as lines:
            answer = client.ask(post(payment_of(), f"Authorization: Bearer {token}"))
        assert answer.status == 401, how
        assert answer.problem()["title"] == "Unauthorized"
        assert not lines
        assert not [part for part in token.split(".") if len(part) >= 20 and part[:20] in answer.body.decode()]
        tokens._left_ns = VAIN_NS_MAX
        assert ask(client, issuer.sign()) == 200


def test_flood_of_bad_tokens_costs_a_tenth(tokens: Tokens, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it none is looked at that is not known; known ones go on, and a new one is taken a little later."""
    known, new = issuer.sign().encode(), issuer.sign(sub="new").encode()
    tokens.caller_of(known)
    looked_at = 0
    for number in range(2_000):
        with pytest.raises(UnauthorizedError) as found:
            tokens.caller_of(known[:-8] + f"{number:08d}".encode())
        looked_at += "not looked at" not in str(found.value)
    assert 1 <= looked_at < 1_000
    tokens._left_ns = -50_000_000
    with pytest.raises(UnauthorizedError):
        tokens.caller_of(new)
    assert tokens.caller_of(known).key.name == "checkout"
    later_ns = time.monotonic_ns() + 10**9
    monkeypatch.setattr("tailrace.server.tokens.tokens.time.monotonic_ns", lambda: later_ns)
    assert tokens.caller_of(new).key.name == "new"


def test_forgeries_are_what_they_seem(tokens: Tokens, client: RawClient, issuer: Issuer) -> None:
    """What signs the wrong claims signs the right ones so that they are taken: the claims are what is refused."""
    now = int(time.time())
    good = {"iss": RULES.issuer, "aud": [RULES.audience, "x"], "exp": now + 60, "scope": "pipelines/log"}
    assert ask(client, _signed(issuer, good)) == 200


def test_end_of_a_token_ends_what_was_remembered(
    tokens: Tokens, client: RawClient, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a connection that has used it, by a head that is known, at that second."""
    token = issuer.sign()
    assert [ask(client, token) for _ in range(2)] == [200, 200]
    now = time.time()
    monkeypatch.setattr("tailrace.server.keys.time.time", lambda: now + 304)
    assert ask(client, token) == 200
    monkeypatch.setattr("tailrace.server.keys.time.time", lambda: now + 306)
    assert [ask(client, token) for _ in range(2)] == [401, 401]


def test_signer_that_is_taken_out_ends_its_tokens(tokens: Tokens, client: RawClient, issuer: Issuer) -> None:
    """Also those that were remembered; one that comes is taken, and one that comes back too."""
    token, other = issuer.sign("e"), issuer.sign("o")
    assert (ask(client, token), ask(client, other)) == (200, 200)
    issuer.publish("o", "r")
    tokens.look()
    assert (ask(client, token), ask(client, other)) == (401, 200)
    issuer.publish("e", "o", "r")
    tokens.look()
    assert (ask(client, token), ask(client, issuer.sign("e"))) == (200, 200)
    issuer.file.write_text("nonsense")
    tokens.look()
    assert ask(client, issuer.sign("e")) == 200


def test_keys_and_tokens_stand_beside_each_other(
    tokens: Tokens, client: RawClient, issuer: Issuer, tmp_path: Path
) -> None:
    """A key is told from a token, in either header; both at once are refused."""
    secret, key = make_key("caller", ["pipelines/log"])
    with changing(tmp_path / "keys.json") as known:
        known.append(key)
    tokens.look()
    token = issuer.sign()
    assert client.ask(post(payment_of(), f"X-API-Key: {token}")).status == 200
    assert client.ask(post(payment_of(), f"X-API-Key: {secret}", f"Authorization: Bearer {token}")).status == 401
    assert client.ask(post(payment_of())).status == 401


class Publisher:
    """Serves a set over HTTP. answer: what it says next; asked: how often."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda handler: handler.send_error(500)
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.asked += 1
                publisher.answer(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def says(self, document: Any) -> None:
        """Answer with a document from now on."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        self.answer = answer

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


def redirect(handler: BaseHTTPRequestHandler) -> None:
    """Send elsewhere who asks."""
    handler.send_response(302)
    handler.send_header("Location", "file:///etc/passwd")
    handler.end_headers()


@pytest.fixture
def ask_url(publisher: Publisher) -> Iterator[Callable[[], KeySet]]:
    """Return what has the publisher asked, until the test is over."""
    with ExitStack() as stack:

        def begin() -> KeySet:
            keys = KeySet(publisher.url)
            stack.callback(keys.close)
            return keys

        yield begin


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    """Return a server of sets."""
    publisher = Publisher()
    yield publisher
    publisher.close()


def test_url_is_asked_again_and_what_was_known_is_kept(
    publisher: Publisher, ask_url: Callable[[], KeySet], issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signer that is new is fetched when a token names it; what a URL answers wrongly changes nothing."""
    monkeypatch.setattr(key_set, "PAUSE_S", 0.02)
    keys = ask_url()
    tokens = Tokens(keys, RULES, lambda kind: None)
    keys.wait(5)
    with pytest.raises(UnavailableError):
        tokens.caller_of(issuer.sign("e").encode())
    publisher.says(issuer.document("e"))
    wait_for(lambda: tokens.look() or keys.signers, "read")
    assert tokens.caller_of(issuer.sign("e").encode()).key.scopes == ("pipelines/log",)
    asked = publisher.asked
    publisher.says(issuer.document("e", "o"))
    with pytest.raises(UnauthorizedError):
        tokens.caller_of(issuer.sign("o").encode())
    wait_for(lambda: tokens.look() or "o" in keys.signers, "read again")
    assert tokens.caller_of(issuer.sign("o").encode())
    assert publisher.asked == asked + 1
    for wrong in (
        b"",
        b"nonsense",
        {"keys": []},
        b'{"keys": [' + b" " * (2 << 20),
        {"keys": [{"kty": "oct", "k": "AA"}]},
    ):
        asked = publisher.asked
        publisher.says(wrong)
        keys.want()
        wait_for(lambda asked=asked: publisher.asked > asked, "asked")
        tokens.look()
        assert set(keys.signers) == {"e", "o"}
    publisher.answer = redirect
    asked = publisher.asked
    keys.want()
    wait_for(lambda: publisher.asked > asked, "asked")
    tokens.look()
    assert set(keys.signers) == {"e", "o"}


def test_strangers_have_the_url_asked_seldom(
    publisher: Publisher, ask_url: Callable[[], KeySet], issuer: Issuer
) -> None:
    """A thousand tokens of unknown signers are one question, and the next comes after ten seconds."""
    publisher.says(issuer.document("e"))
    keys = ask_url()
    tokens = Tokens(keys, RULES, lambda kind: None)
    keys.wait(5)
    token = issuer.sign("e", head={"kid": "x"}).encode()
    for _ in range(1_000):
        tokens._left_ns = VAIN_NS_MAX
        with pytest.raises(UnauthorizedError):
            tokens.caller_of(token)
    assert publisher.asked == 1


@pytest.mark.parametrize(
    "source", ["http://id.example/jwks", "ftp://id.example/jwks", "https://u:p@id.example/jwks", "/absent"]
)
def test_source_that_cannot_be_believed_is_refused(source: str) -> None:
    """Who answers over plain HTTP is nobody that is known; a password in a URL would stand in the log."""
    with pytest.raises(SetupError) as found:
        check_source(source)
    assert "u:p" not in str(found.value)


@pytest.mark.parametrize(
    "document",
    [
        {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "HS256"}]},
        {"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]},
        {"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]},
        {"keys": [{"kty": "EC", "crv": "secp256k1"}]},
        {"keys": "e"},
        [],
    ],
)
def test_set_without_a_key_of_use_is_refused(tmp_path: Path, document: Any) -> None:
    """Secrets, short keys and curves that nobody asked for are none."""
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(document))
    with pytest.raises(SetupError):
        check_source(str(file))


@pytest.mark.parametrize("left_out", ["jwks", "jwt_issuer", "jwt_audience"])
def test_signers_and_rules_go_together(left_out: str) -> None:
    """A token without an audience would be anybody's."""
    given = {"jwks": "a", "jwt_issuer": "b", "jwt_audience": "c"}
    ServeOptions(files=(), host="0.0.0.0", **given)
    with pytest.raises(SetupError, match="together"):
        ServeOptions(files=(), **{name: value for name, value in given.items() if name != left_out})
