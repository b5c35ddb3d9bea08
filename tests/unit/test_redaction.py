"""What leaves the VM in a bug report holds nothing secret, in no form."""

import base64
import json
import urllib.parse

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flower_agent.commands import support
from flower_agent.config import settings

SECRETS = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["Cc", "Cs", "Zs"]),
    min_size=support.SHORTEST + 2,
    max_size=40,
)
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIBQ2\nabc=\n-----END EC PRIVATE KEY-----"


def hidden(secret, text):
    return support.redactor([secret]).text(text)


FORMS = {
    "as it is": lambda secret: secret,
    "in JSON": json.dumps,
    "in Python": repr,
    "in a URL": lambda secret: f"https://x/?q={urllib.parse.quote(secret, safe='')}",
    "as base64": lambda secret: base64.b64encode(secret.encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS)
@given(secret=SECRETS)
def test_a_secret_is_found_in_each_form(form, secret):
    written = FORMS[form](secret)
    assume("*" not in written)
    assert written not in hidden(secret, f"before {written} after")
    assert hidden(secret, f"before {written} after").startswith("before ")


def test_what_is_base64_of_a_secret_is_found_decoded_and_line_by_line():
    lines = [f"MIGHAgEAMBMGByqGSM49{number:044}" for number in range(3)]
    encoded = base64.b64encode("\n".join(lines).encode()).decode()
    found = hidden(encoded, f"{encoded}\n{lines[1]}\nrest")
    assert found == "***\n***\nrest"


def test_a_longer_secret_is_hidden_before_one_that_it_holds():
    found = support.redactor(["open", "open sesame"]).text("open sesame, open")
    assert found == "***, ***"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"key {PEM} end", "key *** end"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\ncut off", "***"),
        (json.dumps({"k": PEM}), '{"k": "***"}'),
        ("https://user:pass@git.example.org/x", "https://***@git.example.org/x"),
        ("http_proxy=http://u:p@proxy:3128/", "http_proxy=http://***@proxy:3128/"),
        ("Authorization: Basic dXNlcg==", "Authorization: ***"),
        ("'X-ONEGATE-TOKEN': 'abc=='", "'X-ONEGATE-TOKEN': '***'"),
        ('export TOKENTXT="abc=="', 'export TOKENTXT="***"'),
        ("db_password: hunter2, next", "db_password: ***, next"),
        ("API_KEY=abc", "API_KEY=***"),
        ("context.token_lost: the context has no TOKEN", None),
        ("ready for 3 hours, SHA256:Hmuc07P2eiYz", None),
        ("token=***", None),
    ],
)
def test_what_looks_secret_is_hidden_though_nobody_knows_it(text, expected):
    assert support.redactor([]).text(text) == (text if expected is None else expected)


def test_every_secret_of_the_table_is_known_with_and_without_its_prefix():
    for row in (row for row in settings.SETTINGS if row.stem is None):
        for name in (row.name, f"ONEAPP_{row.name}", row.name.lower()):
            found = list(support.values({name: "planted"}))
            assert found == (["planted"] if row.secret else []), name


def test_every_value_of_a_secret_family_is_known():
    for name in ("FLOWER_ENV_MODE", "ONEAPP_FLOWER_ENV_MODE", "flower_env_mode"):
        assert list(support.values({name: "planted"})) == ["planted"]
    assert list(support.values({"FL_CONFIG_MODE": "shown"})) == []


def test_a_password_of_a_proxy_is_known_as_it_is_typed_too():
    found = set(support.values({"FLOWER_HTTP_PROXY": "http://me:p%40ss@proxy:3128"}))
    assert found == {"http://me:p%40ss@proxy:3128", "p%40ss", "p@ss"}


@pytest.mark.parametrize("name", ["DB_PASSWORD", "TOKEN", "SSH_PRIVATE", "MY_KEY", "oauth_cred"])
def test_an_unknown_name_that_sounds_secret_is_taken_for_one(name):
    assert list(support.values({name: "planted"})) == ["planted"]


def test_a_password_in_a_url_is_secret_by_itself():
    found = support.values({"CUSTOM_APP_REPO": "https://me:sesame@git.example.org/app.git"})
    assert list(found) == ["sesame"]


def test_a_listing_shows_what_the_table_lets_and_the_length_of_all_else():
    shown = support.listing(
        {
            "FLOWER_ROLE": "server",
            "ONEAPP_FL_NUM_ROUNDS": "3",
            "TLS_KEY": "secret",
            "TLS_CERT": "long",
            "FL_CONFIG_X": "any",
            "START_SCRIPT": "curl -u me:pw",
            "NETWORK": "YES",
        }
    )
    assert shown.splitlines() == [
        "FLOWER_ROLE=server",
        "FL_CONFIG_X=*** (3 characters)",
        "NETWORK=YES",
        "ONEAPP_FL_NUM_ROUNDS=3",
        "START_SCRIPT=*** (13 characters)",
        "TLS_CERT=*** (4 characters)",
        "TLS_KEY=*** (6 characters)",
    ]


def test_of_an_environment_only_harmless_names_keep_their_values():
    entries = ["PATH=/bin", "FLWR_LOG_LEVEL=INFO", "FLWR_AUTH_TOKEN=x", "AWS_KEY=x", "OTHER=x"]
    assert support.environment(entries) == [
        "PATH=/bin", "FLWR_LOG_LEVEL=INFO", "FLWR_AUTH_TOKEN=***", "AWS_KEY=***", "OTHER=***",
    ]  # fmt: skip


def test_a_damaged_text_is_read_as_far_as_it_goes():
    found = support.loose("A='1'\nexport B=\"2\"\nc: 3\n(broken\nD='4")
    assert found == {"A": "1", "B": "2", "c": "3", "D": "4"}
