"""Certificates of other CAs, in files that are renewed: every kind of key, certbot, and NAT."""

import datetime
import pathlib
import re
import subprocess
import sys

import pytest
from acme_server import AcmeServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from far_machine import HERE, FarMachine
from federation import REPOSITORY, Machine
from watched import WatchedFederation, wait_for

from flower_agent.tls import certificates

pytestmark = [pytest.mark.engine, pytest.mark.federation]

NAME = "fl.example.org"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
KEYS = {
    "RSA 2048": lambda: rsa.generate_private_key(65537, 2048),
    "RSA 4096": lambda: rsa.generate_private_key(65537, 4096),
    "EC P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EC P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
}
VERSIONS = (
    "1.25.0",
    pytest.param("1.34.0", marks=pytest.mark.long),
    pytest.param("1.39.0", marks=pytest.mark.long),
    pytest.param("1.42.0", marks=pytest.mark.long),
)


class Authority:
    """A CA with an intermediate, as companies and Let's Encrypt have them."""

    def __init__(self, key):
        self.root_key, self.key = key(), key()
        self.root = self._sign("corporate root", self.root_key.public_key(), None)
        self.issuer = self._sign("issuing CA", self.key.public_key(), 0)

    def issue(self, key, *names):
        san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = self._builder("superlink", key.public_key()).issuer_name(self.issuer.subject)
        constraints = x509.BasicConstraints(ca=False, path_length=None)
        return (
            builder.add_extension(constraints, critical=True)
            .add_extension(san, critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def _sign(self, name, public, path_length):
        issuer = self.root.subject if path_length is not None else _name(name)
        constraints = x509.BasicConstraints(ca=True, path_length=path_length)
        builder = self._builder(name, public).issuer_name(issuer)
        return builder.add_extension(constraints, critical=True).sign(
            self.root_key, hashes.SHA256()
        )

    def _builder(self, name, public):
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + 90 * DAY)
        )


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def pem(*found):
    return "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in found)


def key_pem(key):
    form = serialization.PrivateFormat.TraditionalOpenSSL
    how = serialization.Encoding.PEM, form, serialization.NoEncryption()
    return key.private_bytes(*how).decode()


def put(machine, chain, key, root):
    directory = machine.root / "etc/flower-agent/tls"
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in {"privkey.pem": key, "fullchain.pem": chain, "root.pem": root}.items():
        (directory / name).write_text(text)


def shown(federation):
    """Return the leaf that Flower has, in hexadecimal SHA-256."""
    found = federation.superlink.root / "var/lib/flower-agent/tls/server.pem"
    return certificates.fingerprint(found.read_text())


def works_with(federation, fingerprint):
    """Return whether the SuperLink is ready with that certificate, and its SuperExec attached."""
    found = federation.status(federation.superlink)
    details = {fact["name"]: fact["detail"] for fact in found.get("facts", ())}
    attached = details.get("superexec", "").startswith("connected")
    return found.get("state") == "ready" and attached and shown(federation) == fingerprint


def built(version):
    build = [sys.executable, REPOSITORY / "contrib/images/build.py", "--flower", version]
    subprocess.run([*build, "--framework", "sklearn"], check=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_flower_serves_every_kind_of_key_and_a_wildcard(lone, version):
    built(version)
    federation = lone(22300, "keys", FLOWER_VERSION=version, FLOWER_PUBLIC_ADDRESS=NAME)
    link = federation.superlink
    for kind, make in KEYS.items():
        authority, key = Authority(make), make()
        leaf = authority.issue(key, "*.example.org")
        put(link, pem(leaf, authority.issuer), key_pem(key), pem(authority.root))
        if kind == next(iter(KEYS)):
            federation.deploy(link)
        wanted = leaf.fingerprint(hashes.SHA256()).hex()
        wait_for(lambda w=wanted: works_with(federation, w), f"{kind} at Flower {version}", 120)


@pytest.mark.long
def test_certbots_certificate_serves_a_node_behind_a_router_and_is_renewed(images, tmp_path):
    """A SuperLink behind NAT, a node elsewhere that knows its public name and no OneGate."""
    authority = Authority(KEYS["RSA 2048"])
    acme = AcmeServer(
        tmp_path / "acme", pem(authority.issuer), key_pem(authority.key), pem(authority.root)
    )
    far = FarMachine(forwards={443: 22342}, hosts=[NAME])
    federation = TwoSites(tmp_path / "sites", far)
    link, node = federation.superlink, federation.supernodes[0]
    try:
        directory = link.root / "etc/flower-agent/tls"
        acme.obtain(NAME, into=directory)
        (directory / "root.pem").write_text(pem(authority.root))
        assert (directory / "privkey.pem").stat().st_mode & 0o077 == 0
        federation.boot(link)
        wait_for(lambda: federation.status(link).get("state") == "ready", "SuperLink", 120)
        assert federation.status(link)["endpoint"] == f"{NAME}:443"
        far.engine.load(
            ["flwr/supernode:1.25.0-py3.13-ubuntu24.04", "flower-agent/superexec:1.25.0-sklearn"]
        )
        federation.boot(node, TLS_CA_CERT=pem(authority.root))
        wait_for(lambda: federation.status(node).get("state") == "ready", "SuperNode", 120)
        run = list(federation.submit("min-clients=1 num-server-rounds=1"))
        assert any(re.search(r"finished|completed", line) for line in run), run[-20:]

        before = shown(federation)
        acme.renew(into=directory)
        wait_for(lambda: shown(federation) != before, "the renewed certificate", 60)
        wait_for(lambda: federation.status(link)["state"] == "ready", "SuperLink again", 120)
        wait_for(lambda: federation.status(node)["state"] == "ready", "SuperNode again", 120)
    finally:
        federation.down()
        far.close()


class TwoSites(WatchedFederation):
    """A SuperLink here and one SuperNode on the other side of a router."""

    control_host = NAME

    def __init__(self, directory: pathlib.Path, far: FarMachine) -> None:
        super().__init__(
            directory,
            name="sites",
            base_port=22340,
            supernodes=1,
            variables={"FLOWER_NODE_AUTH": "NO"},
            say=lambda _: None,
        )
        self._far = far
        self.superlink.variables.update(FLOWER_ADDRESS=HERE, FLOWER_PUBLIC_ADDRESS=f"{NAME}:443")
        self.supernodes[0].variables.update(FLOWER_SERVER_ADDRESS=f"{NAME}:443")
        self.start_onegate()

    def boot(self, machine: Machine, **changes: str) -> None:
        """Start a VM without OneGate."""
        (machine.root / "run/one-context").mkdir(parents=True, exist_ok=True)
        self.write_context(machine, {**machine.variables, **changes})
        self.start_agent(machine)

    def command(self, machine: Machine, *arguments: str) -> list[str]:
        command = super().command(machine, *arguments)
        if machine is self.superlink:
            return command
        docker_host = f"DOCKER_HOST={self._far.engine.url}"
        return [*self._far.enter_by_name, "env", docker_host, *command]
