"""Who others vouch for: JWTs of an OpenID Connect issuer at both ports, client certificates over TLS."""

import base64
import datetime
import http.server
import importlib.metadata
import json
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
from confluent_kafka import Producer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from conftest import eventually, free_port


LIBRDKAFKA = ("confluent-kafka (librdkafka)", importlib.metadata.version("confluent-kafka"))


def encoded(value) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """An OpenID Connect issuer with one key, which may be changed; it counts how often it is asked."""

    def __init__(self):
        self.asked, self.port = [], free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.rotate("k1")
        self.server = None

    def rotate(self, kid):
        self.kid, self.key = kid, ec.generate_private_key(ec.SECP256R1())

    def start(self):
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.asked.append(self.path)
                body = json.dumps(issuer.document(self.path)).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()

    def document(self, path):
        if path.endswith("openid-configuration"):
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        point = self.key.public_key().public_numbers()
        x, y = (encoded(number.to_bytes(32, "big")) for number in (point.x, point.y))
        return {"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "kid": self.kid, "x": x, "y": y}]}

    def jwt(self, subject, kid=None, **claims):
        claims = {"iss": self.url, "aud": "floe", "sub": subject, "exp": int(time.time()) + 300, **claims}
        signed = f"{encoded({'alg': 'ES256', 'kid': kid or self.kid})}.{encoded(claims)}"
        r, s = utils.decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@pytest.fixture
def issuer():
    issuer = Issuer()
    yield issuer
    issuer.stop()


def send(url, headers=None, context=None):
    """Status and body of one event that is sent."""
    request = urllib.request.Request(f"{url}/api/v1/topics/orders/events", b'{"id":1}', headers or {}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as response:
            return response.status, json.load(response), response.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


def bearer(jwt):
    return {"Authorization": f"Bearer {jwt}"}


def test_a_jwt_of_the_issuer_is_the_token_of_its_subject(floe_factory, issuer):
    floe = floe_factory("--auth-oidc-issuer", issuer.url, "--auth-oidc-audience", "floe")
    floe.make_token("admin")
    floe.post_json("/api/v1/tokens", {"name": "ci", "subject": "repo:shop", "allow": ["write:topic:orders", "create:topic:orders"]})
    # Before the issuer can be asked nobody can tell: come again.
    status, answer, headers = send(floe.url, bearer(issuer.jwt("repo:shop")))
    assert (status, answer["code"], headers["Retry-After"]) == (503, "issuer_unavailable", "5")
    issuer.start()
    eventually(lambda: send(floe.url, bearer(issuer.jwt("repo:shop")))[0] == 200, pause_s=1)
    for token, status, code in [
        (issuer.jwt("repo:other"), 403, "forbidden"),
        (issuer.jwt("repo:shop", aud="others"), 401, "invalid_token"),
        (issuer.jwt("repo:shop", iss="http://127.0.0.1:1"), 401, "invalid_token"),
        (issuer.jwt("repo:shop", exp=int(time.time()) - 60), 401, "expired_token"),
        (issuer.jwt("repo:shop")[:-6] + "AAAAAA", 401, "invalid_token"),
    ]:
        found, answer, _ = send(floe.url, bearer(token))
        assert (found, answer["code"]) == (status, code), answer
    # A key that came since is fetched; one that does not exist is asked for a few times at most.
    time.sleep(11)
    issuer.rotate("k2")
    eventually(lambda: send(floe.url, bearer(issuer.jwt("repo:shop")))[0] == 200, pause_s=1)
    asked, began = len(issuer.asked), time.monotonic()
    unknown = issuer.jwt("repo:shop", kid="no-such-key")
    for _ in range(20):
        assert send(floe.url, bearer(unknown))[0] == 401
    # It may be asked every 10 s, for two documents.
    asked_max = 4 + 2 * int((time.monotonic() - began) / 10)
    assert len(issuer.asked) - asked <= asked_max, issuer.asked
    # Its token is revoked: at once.
    listed = {token["name"]: token for token in floe.get("/api/v1/tokens")["tokens"]}
    assert listed["ci"]["subject"] == "repo:shop" and listed["ci"]["last_used_ms"] > 0
    request = urllib.request.Request(f"{floe.url}/api/v1/tokens/ci", headers=floe.headers(), method="DELETE")
    assert urllib.request.urlopen(request, timeout=30).status == 204
    assert send(floe.url, bearer(issuer.jwt("repo:shop")))[0] == 401


@pytest.mark.compat("SASL/OAUTHBEARER and PLAIN with a JWT of an OpenID Connect issuer", client=LIBRDKAFKA)
def test_kafka_clients_send_a_jwt(floe_factory, issuer):
    issuer.start()
    floe = floe_factory("--auth-oidc-issuer", issuer.url, "--auth-oidc-audience", "floe")
    floe.make_token("admin")
    floe.post_json("/api/v1/tokens", {"name": "ci", "subject": "shop", "allow": ["all:topic:orders"]})
    common = {"bootstrap.servers": floe.bootstrap, "security.protocol": "SASL_PLAINTEXT", "message.timeout.ms": 60_000}

    def produced(topic, settings):
        errors, producer = [], Producer({**common, **settings})
        producer.produce(topic, b'{"id":1}', on_delivery=lambda error, _: errors.append(error and error.name()))
        producer.flush(90)
        return errors

    by_bearer = {
        "sasl.mechanism": "OAUTHBEARER",
        "oauth_cb": lambda _: (issuer.jwt("shop"), time.time() + 300),
    }
    by_password = {"sasl.mechanism": "PLAIN", "sasl.username": "x", "sasl.password": issuer.jwt("shop")}
    assert produced("orders", by_bearer) == [None]
    assert produced("orders", by_password) == [None]
    assert produced("others", by_bearer) == ["TOPIC_AUTHORIZATION_FAILED"]
    # A token of ours is a bearer token too.
    ours = {"sasl.mechanism": "OAUTHBEARER", "oauth_cb": lambda _: (floe.token, time.time() + 300)}
    assert produced("others", ours) == [None]
    wrong = {"sasl.mechanism": "OAUTHBEARER", "oauth_cb": lambda _: (issuer.jwt("nobody"), time.time() + 300)}
    refused = []
    producer = Producer({**common, **wrong, "error_cb": lambda error: refused.append(error.name())})
    eventually(lambda: (producer.poll(0.1), "_AUTHENTICATION" in refused)[1])


class Authority:
    """Signs certificates for servers on this machine and for clients."""

    def __init__(self, directory):
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
        self.path, _ = self.sign("ca", self.name, self.key, ca=True)

    def sign(self, stem, subject, key=None, ca=False):
        """Paths of a certificate and its key."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.timezone.utc)
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.DNSName("127.0.0.1")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        paths = self.directory / f"{stem}.pem", self.directory / f"{stem}.key"
        paths[0].write_bytes(certificate.public_bytes(encoding))
        paths[1].write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
        return paths

    def client(self, stem, *parts):
        subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])
        return self.context(*self.sign(stem, subject))

    def context(self, certificate=None, key=None):
        context = ssl.create_default_context(cafile=str(self.path))
        if certificate:
            context.load_cert_chain(certificate, key)
        return context


@pytest.fixture
def tls(floe_factory, tmp_path, monkeypatch):
    """A server over TLS that asks for client certificates, and the authority of both."""
    import conftest

    authority = Authority(tmp_path)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate, key = authority.sign("server", name)
    context = authority.context()
    # The harness speaks plain HTTP: here it speaks TLS as `localhost`.
    monkeypatch.setattr(conftest.Floe, "url", property(lambda self: f"https://localhost:{self.http_port}"))
    handler = urllib.request.HTTPSHandler(context=context)
    monkeypatch.setattr(urllib.request, "_opener", urllib.request.build_opener(handler))
    flags = ["--http-tls-certificate", certificate, "--http-tls-key", key, "--http-tls-client-ca", authority.path]
    return floe_factory(*map(str, flags)), authority


@pytest.mark.compat("a client certificate stands for a token; TLS with HTTP/2", client="curl")
def test_a_client_certificate_is_the_token_of_its_subject(tls):
    floe, authority = tls
    shop = [(NameOID.ORGANIZATION_NAME, "Example, Inc."), (NameOID.COMMON_NAME, "shop")]
    subject = r"CN=shop,O=Example\, Inc."
    known, other = authority.client("shop", *shop), authority.client("other", (NameOID.COMMON_NAME, "other"))
    # As long as nobody needs a token a certificate changes nothing.
    assert send(floe.url, context=other)[0] == 200
    floe.make_token("admin")
    floe.post_json("/api/v1/tokens", {"name": "shop", "certificate": subject, "allow": ["write:topic:orders"]})
    assert send(floe.url, context=known)[0] == 200
    status, answer, _ = send(floe.url, context=other)
    assert (status, answer["code"]) == (403, "forbidden") and "CN=other" in answer["detail"], answer
    status, answer, _ = send(floe.url, context=authority.context())
    assert (status, answer["code"]) == (401, "missing_token")
    # A token that is sent comes before the certificate.
    assert send(floe.url, {"token": "wrong"}, known)[0] == 401
    assert send(floe.url, {"token": floe.token}, other)[0] == 200
    printed = subprocess.run(
        ["openssl", "x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", authority.directory / "shop.pem"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.strip() == f"subject={subject}"
    # Of another authority: no connection.
    stranger = authority.directory / "stranger"
    stranger.mkdir()
    certificate = Authority(stranger).sign("shop", x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop")]))
    with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
        send(floe.url, context=authority.context(*certificate))
    curl = ["curl", "-sS", "--cacert", authority.path, "-w", "%{http_version}", f"{floe.url}/healthz"]
    assert subprocess.run(curl, capture_output=True, text=True, check=True).stdout == "ok\n2"


def test_a_new_certificate_is_served_without_a_restart(tls):
    floe, authority = tls

    def serial():
        pem = ssl.get_server_certificate(("localhost", floe.http_port))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    before = serial()
    authority.sign("server", x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
    eventually(lambda: serial() != before, pause_s=1)
    assert send(floe.url)[0] == 200


def test_files_that_are_no_certificates_are_named(tmp_path):
    import conftest

    (tmp_path / "empty.pem").write_text("")
    for flags, named in [
        (["--http-tls-certificate", "none.pem", "--http-tls-key", "none.key"], "http.tls.key none.key"),
        (["--http-tls-certificate", "none.pem"], "http.tls.key"),
        (["--auth-oidc-issuer", "http://id.example", "--auth-oidc-audience", "a"], "https"),
    ]:
        ran = subprocess.run(
            [conftest.FLOE_BIN, "serve", "--data-dir", str(tmp_path / "data"), "--http-listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0", *flags],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode != 0 and named in ran.stderr + ran.stdout, ran.stderr
