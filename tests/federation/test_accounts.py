"""A data scientist without any access to the VMs: log in, run, read the log, get the model.

The client is ``flwr`` as the image has it, which is PyPI's; the browser is a few lines of ours.
"""

import io
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import tarfile
import threading
import urllib.error
import urllib.parse
import urllib.request

import pytest
from watched import WatchedFederation, wait_for

from flower_agent.config import flower_versions

pytestmark = [pytest.mark.engine, pytest.mark.federation]

BASES = {"1.25.0": 38400, "1.42.0": 38600}
PASSWORD = "correct horse battery"
LOGIN_S = 120


@pytest.fixture(scope="module", params=["1.25.0", pytest.param("1.42.0", marks=pytest.mark.long)])
def federation(request, images, tmp_path_factory):
    version, base = request.param, BASES[request.param]
    made = WatchedFederation(
        tmp_path_factory.mktemp("gw"), name=f"gw{base}", base_port=base,
        variables={"FLOWER_VERSION": version}, say=lambda _: None,
    )  # fmt: skip
    listen = f"127.0.0.1:{base + 90}"
    made.superlink.variables.update(FLOWER_GATEWAY="YES", FLOWER_GATEWAY_ADDRESS=listen)
    try:
        made.up()
        yield made
    finally:
        made.down()


def address_of(federation):
    """Return where people log in, as the status has it once the gateway answers."""
    link, words = federation.superlink, "people log in at "

    def told():
        facts = federation.status(link)["facts"]
        said = [fact["detail"] for fact in facts if fact["name"] == "gateway"]
        return said[0].removeprefix(words) if said and said[0].startswith(words) else None

    wait_for(told, "the gateway's address", 120)
    return told()


class Person:
    """Somebody with an account, a browser and a laptop with ``flwr``."""

    def __init__(self, federation, name, role, folder):
        self.federation, self.name = federation, name
        added = subprocess.run(
            [*federation.command(federation.superlink, "accounts"), "add", name, "--role", role,
             "--password-stdin"],
            check=False, input=PASSWORD, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert added.returncode == 0, added.stderr
        self.url = address_of(federation)
        self.folder = folder / name
        self._lay_out()
        trust = ssl.create_default_context(cafile=self.folder / "ca.crt")
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust),
            urllib.request.HTTPCookieProcessor(),
        )  # fmt: skip

    def _lay_out(self):
        """Write what `accounts snippet` says."""
        federation = self.federation
        said = federation.agent(federation.superlink, "accounts", "snippet").stdout
        app = self.folder / "app"
        self.folder.mkdir()
        shutil.copytree(federation._app, app, ignore=shutil.ignore_patterns("__pycache__"))
        ca = re.search(r"-----BEGIN.*END CERTIFICATE-----", said, re.DOTALL)[0]
        (self.folder / "ca.crt").write_text(ca + "\n")
        table = re.search(r"^\[.*?(?=\n\n)", said, re.DOTALL | re.MULTILINE)[0]
        (self.folder / "home").mkdir()
        if federation.version.release < flower_versions.CONFIG_TOML_SINCE:
            with (app / "pyproject.toml").open("a") as file:
                file.write("\n" + table.replace('"ca.crt"', '"../ca.crt"') + "\n")
            self.where = [".", "federation"]
        else:
            text = table.replace('"ca.crt"', '"/app/work/ca.crt"') + "\n"
            (self.folder / "home/config.toml").write_text(text)
            self.where = ["federation"]
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, flower_versions.UID, flower_versions.UID)

    def command(self, *arguments):
        image = flower_versions.image("flwr", "superexec", self.federation.version)
        environment = {"FLWR_HOME": "/app/work/home", "BROWSER": "true", "PYTHONUNBUFFERED": "1"}
        environment |= dict(flower_versions.environment(self.federation.version, debug=False))
        given = [word for pair in environment.items() for word in ("-e", "{}={}".format(*pair))]
        return [
            "docker", "run", "--rm", "--network", "host", *given, "-v", f"{self.folder}:/app/work",
            "-w", "/app/work/app", "--entrypoint", "flwr", image, *arguments,
        ]  # fmt: skip

    def flwr(self, *arguments):
        """Return what a command prints and its status."""
        done = subprocess.run(
            self.command(*arguments), check=False, capture_output=True, text=True, timeout=400
        )
        text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        return text, done.returncode

    def login(self):
        """Log in as the client asks to."""
        said = []
        with subprocess.Popen(
            self.command("login", *self.where), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        ) as client:  # fmt: skip
            reader = threading.Thread(target=lambda: said.extend(client.stdout))
            reader.start()
            try:
                self._approve(self._code(said))
                client.wait(LOGIN_S)
            finally:
                client.kill()
            reader.join()
        assert "Login successful" in "".join(said), said

    def _code(self, said):
        """Return the code in what a client has printed, once it is there."""

        def address():
            text = "".join("".join(said).split())
            return re.search(rf"{re.escape(self.url)}/login\?code=([A-Z]{{4}}-[A-Z]{{4}})", text)

        wait_for(address, "the address of the log-in", LOGIN_S)
        return address()[1]

    def _approve(self, code):
        form = {"name": self.name, "password": PASSWORD, "code": code}
        page = self._send("/sign-in", form)  # and on to the page of the code
        token = re.search(r'name="token" value="([0-9a-f]{64})"', page)[1]
        page = self._send("/approve", {"code": code, "token": token, "answer": "allow"})
        assert "complete" in page

    def _send(self, path, form):
        body = urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(self.url + path, body, {"Origin": self.url})  # noqa: S310
        with self._opener.open(request, timeout=30) as reply:
            return reply.read().decode()

    def fetch(self, url, **headers):
        request = urllib.request.Request(url, headers=headers)  # noqa: S310  # an address of ours
        with self._opener.open(request, timeout=60) as reply:
            return reply.status, reply.read()


@pytest.fixture(scope="module")
def people(federation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    found = [
        Person(federation, name, role, folder)
        for name, role in (("ann", "submitter"), ("ben", "submitter"), ("vic", "viewer"))
    ]
    for person in found:
        person.login()
    return found


def test_a_data_scientist_gets_a_model_without_the_vm(federation, people):
    ann, ben, vic = people
    before, _ = vic.flwr("run", *(ann.where if len(ann.where) > 1 else [".", *ann.where]))
    assert "viewer" in before
    text, status = ann.flwr("run", ".", "federation", "--stream")
    assert status == 0, text
    run = re.search(r"started run (\d+)", text)[1]
    assert "round 1 of" in text.lower(), text
    for reader in (ann, vic):
        listed, status = reader.flwr("ls", *reader.where)
        assert status == 0
        assert run[:6] in listed
    log, _ = vic.flwr("log", run, *vic.where, "--show")
    assert "round 1 of" in log.lower()
    nodes, status = vic.flwr("supernode", "list", *vic.where)
    assert (status, nodes.lower().count("online")) == (0, 2)

    kept = pathlib.Path(federation.superlink.root) / f"var/lib/flower-agent/runs/{run}/outputs"
    wait_for((kept.parent / "outputs.json").exists, "the outputs are kept", 120)
    new = federation.version.release >= flower_versions.CONFIG_TOML_SINCE
    pull = ["pull", run] if new else ["pull", "--run-id", run]
    refusal, _ = ben.flwr(*pull, *ben.where)
    assert "is of ann" in refusal
    said, status = ann.flwr(*pull, *ann.where)
    assert status == 0
    url = re.search(rf"{re.escape(ann.url)}/outputs/\S+?\.tar", "".join(said.split()))[0]
    _, archive = ann.fetch(url)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        got = {m.name.partition("/")[2]: tar.extractfile(m).read() for m in tar if m.isfile()}
    there = {
        str(path.relative_to(kept)): path.read_bytes() for path in kept.rglob("*") if path.is_file()
    }
    assert got == there
    assert any(map(len, got.values()))
    code, half = ann.fetch(url, Range=f"bytes={len(archive) // 2}-")
    assert (code, half) == (206, archive[len(archive) // 2 :])


def test_a_disabled_account_is_out_at_once(federation, tmp_path):
    zoe = Person(federation, "zoe", "viewer", tmp_path)
    zoe.login()
    assert "flwr login" not in zoe.flwr("ls", *zoe.where)[0]
    done = federation.agent(federation.superlink, "accounts", "disable", "zoe")
    assert done.returncode == 0
    assert "flwr login" in zoe.flwr("ls", *zoe.where)[0]
    with pytest.raises(urllib.error.HTTPError) as caught:
        zoe._send("/sign-in", {"name": "zoe", "password": PASSWORD, "code": ""})
    assert caught.value.code == 401
    caught.value.close()


def test_the_federation_does_not_notice_the_end_of_its_gateway(federation, people):
    ann = people[0]
    federation.stop_gateway()
    link = federation.superlink
    wait_for(
        lambda: "gateway.down" in {w["code"] for w in federation.status(link)["warnings"]},
        "the status says so",
        120,
    )
    assert federation.status(link)["state"] == "ready"
    assert federation.connected() == 2
    federation.start_gateway()
    wait_for(lambda: not federation.status(link)["warnings"], "all is well again", 120)
    text, status = ann.flwr("ls", *ann.where)
    assert status == 0, text


def test_the_address_is_shown_and_the_first_password_once(federation):
    said = federation.agent(federation.superlink, "open").stdout
    assert address_of(federation) in said
    assert "password" in said
    assert "password" not in federation.agent(federation.superlink, "open").stdout
