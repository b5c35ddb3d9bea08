"""Sign in through a real OpenID Connect provider: `oidc-provider` of npm, which is certified."""

import datetime
import html.parser
import http.client
import http.cookies
import pathlib
import shutil
import socket
import ssl
import subprocess
import threading
import urllib.parse

import pytest
from fake_superlink import FakeSuperLink
from gateways import URL, RunningGateway

from flower_agent.config.flower_versions import Transport
from flower_agent.flower import wire
from flower_agent.tls import own_ca

CALLBACK = f"{URL}/oidc/callback"
PROVIDER = pathlib.Path(__file__).with_name("oidc_provider.mjs")
FOLDER = pathlib.Path(__file__).parents[2] / "build/oidc-provider"
ALLOW = "group:ml-team=submitter domain:example.org=viewer subject:root=admin"
WAIT_S = 120


@pytest.fixture(scope="module")
def library(missing):
    """The folder where npm has put the provider's library."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("node and npm are needed: apt-get install nodejs npm")
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "node_modules/oidc-provider").is_dir():
        (FOLDER / "package.json").write_text('{"type": "module", "private": true}')
        command = ["npm", "install", "--no-fund", "--no-audit", "oidc-provider@9"]
        done = subprocess.run(
            command, check=False, cwd=FOLDER, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            missing(f"oidc-provider cannot be fetched: {done.stderr[-300:]}")
    shutil.copy(PROVIDER, FOLDER)
    return FOLDER


@pytest.fixture(scope="module")
def provider(library, tmp_path_factory):
    """The issuer's address, and the file of the CA that its certificate is from."""
    folder = tmp_path_factory.mktemp("provider")
    now = datetime.datetime.now(datetime.UTC)
    ca = own_ca.make_ca(now)
    leaf = own_ca.make_leaf(ca, {"localhost"}, now)
    (folder / "ca").write_text(ca.certificate_pem)
    (folder / "crt").write_text(leaf.certificate_pem)
    (folder / "key").write_text(leaf.key.reveal())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["node", PROVIDER.name, str(port), folder / "crt", folder / "key", CALLBACK]
    with subprocess.Popen(
        command, cwd=library, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        stop = threading.Timer(WAIT_S, process.kill)
        stop.start()
        assert process.stdout.readline() == "ready\n"
        stop.cancel()
        yield f"https://localhost:{port}", folder / "ca"
        process.kill()


@pytest.fixture(scope="module")
def gateway(provider, tmp_path_factory):
    issuer, ca = provider
    superlink = FakeSuperLink()
    with superlink.serve(Transport.HTTP) as address:
        made = RunningGateway(
            tmp_path_factory.mktemp("gateway"), Transport.HTTP, address,
            oidc={"issuer": issuer, "client_id": "federation", "allow": ALLOW},
            environment={"SSL_CERT_FILE": str(ca), "NO_PROXY": "localhost"},
        )  # fmt: skip
        made.start()
        yield made
        made.stop()


class Form(html.parser.HTMLParser):
    """Where a page's form goes."""

    action = None
    fields: dict

    def __init__(self, text):
        super().__init__()
        self.fields = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        said = dict(attrs)
        if tag == "form":
            self.action = said["action"]
        if tag == "input" and said.get("type") == "hidden":
            self.fields[said["name"]] = said.get("value", "")


class Visitor:
    """A browser at the provider, with its cookies."""

    def __init__(self, issuer, ca):
        self._host = urllib.parse.urlsplit(issuer).netloc
        self._trust = ssl.create_default_context(cafile=ca)
        self._cookies = http.cookies.SimpleCookie()

    def follow(self, place, as_who):
        """Go on until the provider sends the browser back; return that address."""
        form = None
        for _ in range(12):
            headers, text = self._ask(place, form)
            there = headers.get("location")
            form = None
            if there is not None:
                if there.startswith(URL):
                    return there
                place = there
                continue
            page = Form(text)
            assert page.action, text
            place, form = page.action, {**page.fields, "login": as_who, "password": "any"}
        raise AssertionError("the provider goes round in a circle")

    def _ask(self, place, form):
        address = urllib.parse.urlsplit(place)
        connection = http.client.HTTPSConnection(self._host, context=self._trust, timeout=30)
        path = address.path + (f"?{address.query}" if address.query else "")
        headers = {"Cookie": "; ".join(f"{k}={v.value}" for k, v in self._cookies.items())}
        body = None
        if form is not None:
            body = urllib.parse.urlencode(form)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request("POST" if form is not None else "GET", path, body, headers)
        response = connection.getresponse()
        for value in response.headers.get_all("set-cookie") or ():
            self._cookies.load(value)
        text = response.read().decode()
        connection.close()
        return response.headers, text


def begun(gateway, code="", source="192.0.2.1"):
    """Return where the gateway sends a browser, and the cookie that it gets for the way."""
    query = urllib.parse.urlencode({"code": code})
    status, headers, _ = gateway.ask("GET", f"/oidc/begin?{query}", source=source)
    assert status == 303
    return headers["location"], headers["set-cookie"].partition(";")[0]


def back(gateway, address, cookie):
    return gateway.ask("GET", address.removeprefix(URL), cookie=cookie)


def signed_in(gateway, provider, who, code=""):
    there, way = begun(gateway, code)
    status, headers, text = back(gateway, Visitor(*provider).follow(there, who), way)
    return status, headers, text.decode()


def session_of(headers):
    assert "__Host-flower-agent=" in headers["set-cookie"]
    return headers["set-cookie"].partition(";")[0]


def test_a_login_through_the_provider_gives_tokens_of_the_groups_role(gateway, provider):
    details = wire.decode(gateway.call("GetLoginDetails"))
    code = details.text(3).rpartition("=")[2]
    assert b"/oidc/begin" in gateway.ask("GET", f"/login?code={code}")[2]
    there, way = begun(gateway, code)
    answer = Visitor(*provider).follow(there, "ann")
    status, headers, _ = back(gateway, answer, way)
    assert (status, headers["location"]) == (303, f"/login?code={code}")
    cookie = session_of(headers)
    form = {"code": code, "token": gateway.form_token(cookie, code), "answer": "allow"}
    assert gateway.ask("POST", "/approve", form, cookie=cookie)[0] == 200
    tokens = wire.decode(gateway.call("GetAuthTokens", wire.encode((1, details.text(2)))))
    gateway.call("ListRuns", access=tokens.text(1))
    text = gateway.ask("GET", "/", cookie=cookie)[2].decode()
    assert "ann@example.org" in text
    assert "submitter" in text
    # The same answer once more, as a thief would send it.
    assert back(gateway, answer, way)[0] == 403


def test_a_mail_that_the_provider_has_not_verified_counts_for_nothing(gateway, provider):
    status, _, text = signed_in(gateway, provider, "eve")
    assert status == 403
    assert "may not use this federation" in text
    assert "ann@" not in text


def test_somebody_without_a_rule_stays_outside(gateway, provider):
    status, _, text = signed_in(gateway, provider, "<b>bob</b>")
    assert status == 403
    assert "<b>bob" not in text


def test_the_way_back_belongs_to_the_browser_that_began(gateway, provider):
    there, _ = begun(gateway)
    answer = Visitor(*provider).follow(there, "root")
    _, another = begun(gateway, source="192.0.2.2")
    for cookie in (another, ""):
        assert back(gateway, answer, cookie)[0] == 403


@pytest.mark.parametrize(
    "query", ["", "state=x&code=y", "error=access_denied&state=x", "code=%00&state=%ff"]
)
def test_an_answer_that_nobody_asked_for_is_refused(gateway, query):
    _, way = begun(gateway, source="192.0.2.3")
    assert gateway.ask("GET", f"/oidc/callback?{query}", cookie=way)[0] == 403


def test_what_is_asked_of_the_provider(gateway, provider):
    there, way = begun(gateway, "BCDF-GHJK", source="192.0.2.4")
    asked = urllib.parse.parse_qs(urllib.parse.urlsplit(there).query)
    assert there.startswith(f"{provider[0]}/auth?")
    assert asked["redirect_uri"] == [CALLBACK]
    assert asked["code_challenge_method"] == ["S256"]
    assert len(asked["code_challenge"][0]) == 43
    assert asked["state"] != asked["nonce"]
    assert way.startswith("__Host-")
