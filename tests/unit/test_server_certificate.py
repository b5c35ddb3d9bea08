"""Which certificate a SuperLink shows, turn by turn, while files come, change and go."""

import datetime
import os
import pathlib
import subprocess

import pytest
from authority import DAY, NOW, issue, secret
from cryptography.hazmat.primitives.serialization import PrivateFormat
from cycles import cycle_of

from flower_agent.agent.operator_requests import RequestFiles
from flower_agent.commands import check, tls
from flower_agent.config import parsing
from flower_agent.host.machine import HostFacts
from flower_agent.model.errors import AgentError
from flower_agent.model.state import State
from flower_agent.paths import Paths
from flower_agent.roles.server_certificate import ServerCertificate
from flower_agent.tls import certificates, trust
from flower_agent.tls.provided import CHAIN, KEY, ROOT, SETTLE_S, CertificateFiles
from flower_agent.tls.store import Keyring

HOOK = pathlib.Path(__file__).parents[2] / "contrib/certbot/flower-agent"
NAME = "fl.example.org"
END = NOW + 3650 * DAY
CA = issue("corporate root", ca=True, usage="key_cert_sign", end=END)
INTER = CA.issue("issuing CA", ca=True, path_length=0, usage="key_cert_sign", end=END)


def leaf(days=90, hosts=(NAME, "127.0.0.1"), **more):
    return INTER.issue("superlink", hosts=hosts, ca=False, end=NOW + days * DAY, **more)


class Link:
    """A SuperLink's VM, as far as its certificate goes."""

    def __init__(self, folder, **context):
        self.paths = Paths(folder)
        self.folder = self.paths.certificates
        self.folder.mkdir(parents=True)
        self.keyring = Keyring(self.paths.tls)
        self.certificate = ServerCertificate(CertificateFiles(self.folder))
        self.context = {"FLOWER_ROLE": "server", "FLOWER_PUBLIC_ADDRESS": NAME, **context}
        self.now, self.monotonic, self.active, self.asked = NOW, 1000.0, False, 0

    def put(self, issued, *, root=CA, chain=None):
        """Do what certbot's hook does."""
        (self.folder / CHAIN).write_text(chain or issued.pem + INTER.pem)
        (self.folder / KEY).write_text(issued.secret.reveal())
        if root is not None:
            (self.folder / ROOT).write_text(root.pem)

    def runs(self):
        self.asked += 1
        return self.active

    def turn(self, after_s=0.0, *, renew=False):
        """Do a turn as far as the certificates; return it."""
        self.monotonic += after_s
        self.last = turn = cycle_of(
            settings=parsing.parse(self.context, {}).settings,
            variables={},
            host=HostFacts((), None, 2**31, "boot"),
            keyring=self.keyring,
            client=None,
            now=self.now,
            monotonic=self.monotonic,
            state=State(),
            renew=renew,
        )
        hosts = trust.hosts(published=NAME, listen="10.0.0.5", more=())
        wanted = self.certificate.wanted(turn, hosts, {NAME}, self.runs)
        for step in trust.steps(wanted, self.keyring.held(wanted, self.now), self.now):
            self.keyring.apply(step, wanted, self.now)
        return turn

    def shows(self):
        """Return the leaf that Flower serves."""
        return certificates.load(self.keyring.held_chain())[0]

    def codes(self):
        return [found.code for found in self.last.report.warnings]

    def refusal(self, **how):
        with pytest.raises(AgentError) as caught:
            self.turn(**how)
        return caught.value.finding


@pytest.fixture
def link(tmp_path):
    return Link(tmp_path)


def test_without_anything_given_the_agent_makes_its_own(link):
    link.turn()
    assert certificates.describe(link.shows()).issuer.startswith(trust.OWN_ISSUER)


def test_files_are_served_with_their_intermediate_and_nodes_get_the_root(link):
    first = leaf()
    link.put(first)
    link.turn()
    assert certificates.load(link.keyring.held_chain()) == (first.certificate, INTER.certificate)
    assert link.keyring.held_ca() == CA.pem
    assert link.codes() == []


def test_the_context_counts_more_than_the_files(tmp_path):
    given = leaf()
    link = Link(
        tmp_path,
        TLS_CERT=given.pem + INTER.pem,
        TLS_KEY=given.secret.reveal(),
        TLS_CA_CERT=CA.pem,
    )
    link.put(leaf())
    link.turn()
    assert link.shows() == given.certificate


def test_a_renewed_pair_is_taken_over_once_it_has_settled(link):
    link.put(leaf())
    link.turn()
    renewed = leaf(180)
    link.put(renewed)
    link.turn(10)
    assert link.shows() != renewed.certificate
    assert link.last.next_s == SETTLE_S, "the loop comes back for it"
    link.turn(SETTLE_S)
    assert link.shows() == renewed.certificate


def test_half_a_renewal_is_never_served(link):
    link.put(leaf())
    link.turn()
    renewed = leaf(180)
    (link.folder / CHAIN).write_text(renewed.pem + INTER.pem)
    link.turn(10)
    assert link.codes() == []
    link.put(renewed)
    link.turn(1)
    link.turn(SETTLE_S)
    assert (link.shows(), link.codes()) == (renewed.certificate, [])


def test_a_renewed_pair_waits_for_the_active_run(link):
    link.put(leaf())
    link.turn()
    before, renewed = link.shows(), leaf(180)
    link.put(renewed)
    link.active = True
    link.turn()
    link.turn(10)
    assert link.shows() == before
    assert "waits for the end of the active run" in link.last.report.conditions["renewal"].detail
    link.active = False
    link.turn(10)
    assert link.shows() == renewed.certificate


def test_it_waits_at_latest_to_seven_days_before_the_end(link):
    link.put(leaf(30))
    link.turn()
    renewed = leaf(180)
    link.put(renewed)
    link.active = True
    link.now = NOW + 23 * DAY + datetime.timedelta(minutes=1)
    link.turn()
    link.turn(10)
    assert link.shows() == renewed.certificate


def test_tls_renew_takes_it_over_at_once(link):
    link.put(leaf())
    link.turn()
    link.active = True
    renewed = leaf(180)
    link.put(renewed)
    assert tls.renew(link.paths) == 0
    assert RequestFiles(link.paths.requests).read().renew
    link.turn(renew=True)
    assert link.shows() == renewed.certificate


def test_without_a_change_nobody_asks_for_runs(link):
    link.put(leaf())
    for _ in range(5):
        link.turn(10)
    assert link.asked == 0


BROKEN = leaf()
BAD = {
    "setting.missing": lambda link: (link.folder / KEY).unlink(),
    "setting.invalid": lambda link: (link.folder / CHAIN).write_text("no certificate"),
    "tls.key_mismatch": lambda link: (link.folder / KEY).write_text(leaf().secret.reveal()),
    "tls.not_covered": lambda link: link.put(leaf(hosts=("other.example.org",))),
    "tls.expired": lambda link: link.put(leaf(-0.5)),
    "tls.chain": lambda link: link.put(BROKEN, chain=BROKEN.pem),
}


@pytest.mark.parametrize("code", BAD)
def test_a_bad_renewal_is_a_warning_and_the_one_before_serves_on(link, code):
    link.put(leaf())
    link.turn()
    before = link.shows()
    BAD[code](link)
    link.turn()
    link.turn(10)
    assert link.shows() == before
    (found,) = link.last.report.warnings
    assert found.code == code
    assert f"the agent refuses the files in {link.folder}" in found.message
    assert "stays in use" in found.message
    assert "TLS_CERT" not in found.message


@pytest.mark.parametrize("code", BAD)
def test_bad_files_on_a_new_vm_are_an_error(link, code):
    link.put(leaf())
    BAD[code](link)
    assert link.refusal().code == code


def test_once_the_old_one_has_ended_a_bad_renewal_is_an_error(link):
    link.put(leaf(10))
    link.turn()
    link.put(leaf(180, hosts=("other.example.org",)))
    link.now = NOW + 11 * DAY
    assert link.refusal().code == "tls.expired"
    assert link.refusal(after_s=10).code == "tls.not_covered"


def test_files_that_are_taken_away_leave_the_agents_own(link):
    link.put(leaf())
    link.turn()
    for name in (CHAIN, KEY, ROOT):
        (link.folder / name).unlink()
    link.turn()
    link.turn(10)
    assert certificates.describe(link.shows()).issuer.startswith(trust.OWN_ISSUER)


def test_the_systems_store_alone_is_no_certificate(tmp_path):
    link = Link(tmp_path, TLS_CA_CERT="system")
    found = link.refusal()
    assert found.code == "setting.missing"
    assert "TLS_CA_CERT is 'system'" in found.message


def test_check_on_the_vm_judges_the_files(link, capsys):
    context = link.paths.context
    context.mkdir(parents=True)
    lines = {**link.context, "ETH0_IP": "10.0.0.5"}
    text = "".join(f"{name}='{value}'\n" for name, value in lines.items())
    (context / "context.sh.network").write_text(text)
    now = datetime.datetime.now(datetime.UTC)
    issued = CA.issue("x", hosts=("other.example.org",), ca=False, start=now - DAY, end=now + DAY)
    link.put(issued, chain=issued.pem)
    assert check.run(link.paths, None, as_json=False) == 1
    told = capsys.readouterr().out
    assert f"tls.not_covered: {link.folder / CHAIN} does not contain {NAME}" in told


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_every_usual_form_of_a_key_is_taken(link, form):
    issued = leaf()
    link.put(issued)
    parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    (link.folder / KEY).write_text(parameters + secret(issued.key, form).reveal())
    link.turn()
    assert link.shows() == issued.certificate


# certbot's hook


def hook(lineage, into, **more):
    environment = {"PATH": os.defpath, "RENEWED_LINEAGE": str(lineage), **more}
    environment |= {"FLOWER_AGENT_TLS": str(into)}
    done = subprocess.run([HOOK], env=environment, capture_output=True, check=False, timeout=10)
    return done.returncode


def test_the_hook_hands_over_both_files_for_nobody_else_to_read(tmp_path):
    lineage, into = tmp_path / "live/fl.example.org", tmp_path / "etc/tls"
    lineage.mkdir(parents=True)
    for name in (CHAIN, KEY):
        (tmp_path / name).write_text(f"renewed {name}")
        (lineage / name).symlink_to(tmp_path / name)
    assert hook(lineage, into) == 0
    assert sorted(path.name for path in into.iterdir()) == [CHAIN, KEY]
    for name in (CHAIN, KEY):
        assert (into / name).read_text() == f"renewed {name}"
        assert not (into / name).is_symlink()
        assert (into / name).stat().st_mode & 0o777 == 0o600
    assert into.stat().st_mode & 0o777 == 0o700


def test_the_hook_leaves_other_certificates_of_the_vm_alone(tmp_path):
    into = tmp_path / "tls"
    assert hook(tmp_path / "live/www", into, FLOWER_AGENT_LINEAGE="fl.example.org") == 0
    assert not into.exists()


def test_a_hook_that_cannot_copy_changes_nothing_and_fails(tmp_path):
    lineage, into = tmp_path / "live", tmp_path / "tls"
    lineage.mkdir()
    into.mkdir()
    (into / CHAIN).write_text("before")
    (lineage / KEY).write_text("new")
    assert hook(lineage, into) != 0
    assert (into / CHAIN).read_text() == "before"
    assert not (into / KEY).exists()
