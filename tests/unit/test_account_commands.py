"""``flower-agent accounts`` and ``open``, with a gateway's files below a root."""

import datetime
import io
import json
import sys

import pytest

from flower_agent import cli
from flower_agent.commands import accounts
from flower_agent.gateway.gateway_config import FIRST_PASSWORD_FILE, read_config
from flower_agent.model.errors import AgentError
from flower_agent.paths import Paths
from flower_agent.tls import own_ca

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
PASSWORD = "correct horse battery"


@pytest.fixture
def paths(tmp_path):
    found = Paths(tmp_path)
    (found.state / "gateway").mkdir(parents=True)
    return found


def tell(paths, version="1.25.0", *, ca=True):
    """Write what the agent writes for the gateway."""
    paths.gateway.mkdir(parents=True, exist_ok=True)
    file = paths.gateway / "ca.crt"
    file.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    said = {
        "version": version, "transport": "grpc" if version < "1.37" else "http",
        "control": "127.0.0.1:9093", "ca": str(file) if ca else None, "server_hostname": None,
        "url": "https://fl.example.org:9443",
    }  # fmt: skip
    (paths.gateway / "gateway.json").write_text(json.dumps(said))


def call(paths, *arguments):
    return cli.main(["--root", str(paths.root), *arguments])


def test_an_account_is_added_listed_disabled_and_removed(paths, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(PASSWORD + "\n"))
    assert call(paths, "accounts", "add", "ann", "--role", "submitter", "--password-stdin") == 0
    assert PASSWORD not in capsys.readouterr().out
    assert call(paths, "accounts", "disable", "ann") == 0
    assert call(paths, "accounts", "list", "--json") == 0
    said = capsys.readouterr().out
    (row,) = json.loads(said[said.index("{") :])["accounts"]
    assert (row["name"], row["role"], row["disabled"]) == ("ann", "submitter", True)
    assert call(paths, "accounts") == 0
    assert "disabled" in capsys.readouterr().out
    assert call(paths, "accounts", "logout", "ann") == 0
    assert call(paths, "accounts", "remove", "ann") == 0
    assert call(paths, "accounts", "list") == 0
    assert "no local accounts" in capsys.readouterr().out
    told = [json.loads(line) for line in paths.audit.read_text().splitlines()]
    assert [line["message"] for line in told] == ["add as submitter", "disable", "logout", "remove"]
    assert {(line["what"], line["name"]) for line in told} == {("account.changed", "ann")}
    assert all(line["who"].startswith("local:") for line in told)
    assert PASSWORD not in paths.audit.read_text()


def test_a_password_is_made_where_nobody_is_there_to_give_one(paths, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert call(paths, "accounts", "add", "ann", "--role", "viewer") == 0
    first = capsys.readouterr().out.split()[-1]
    assert call(paths, "accounts", "passwd", "ann") == 0
    assert capsys.readouterr().out.split()[-1] != first


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("add", "a b", "--role", "viewer"), "account.invalid"),
        (("remove", "nobody"), "account.missing"),
        (("passwd", "nobody"), "account.missing"),
    ],
)
def test_a_mistake_has_its_code_and_changes_nothing(paths, capsys, monkeypatch, arguments, code):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert call(paths, "accounts", *arguments) != 0
    assert code in capsys.readouterr().err


@pytest.mark.parametrize("command", [("accounts", "snippet"), ("open",), ("accounts",)])
def test_a_vm_without_a_gateway_says_so(tmp_path, capsys, command):
    assert call(Paths(tmp_path), *command) != 0
    assert "account.no_gateway" in capsys.readouterr().err


def test_what_a_laptop_needs_depends_on_the_version(paths):
    tell(paths)
    old = accounts.snippet_text(read_config(paths.gateway / "gateway.json"))
    assert "[tool.flwr.federations.federation]" in old
    assert "enable-account-auth = true" in old
    assert "MIIB" in old
    assert "pip install flwr==1.25.0" in old
    tell(paths, "1.42.0", ca=False)
    new = accounts.snippet_text(read_config(paths.gateway / "gateway.json"))
    assert '[superlink.federation]\naddress = "fl.example.org:9443"\n' in new
    assert "root-certificates" not in new
    assert "account-auth" not in new


def test_the_address_is_shown_with_the_fingerprint_and_the_first_password_once(paths, capsys):
    tell(paths)
    (paths.state / "gateway" / FIRST_PASSWORD_FILE).write_text("made-up\n")
    paths.proxy.mkdir(parents=True)
    (paths.proxy / "gateway.pem").write_text(own_ca.make_ca(NOW).certificate_pem)
    assert call(paths, "open") == 0
    said = capsys.readouterr().out
    assert "https://fl.example.org:9443" in said
    assert "SHA-256 " in said
    assert "made-up" in said
    assert call(paths, "open") == 0
    assert "made-up" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{}", '{"version": 1}', "[]", "\x00"])
def test_a_damaged_file_of_the_agent_has_its_error(paths, text):
    tell(paths)
    (paths.gateway / "gateway.json").write_text(text)
    with pytest.raises(AgentError) as caught:
        read_config(paths.gateway / "gateway.json")
    assert caught.value.finding.code == "gateway.config"
