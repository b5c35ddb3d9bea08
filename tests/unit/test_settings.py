"""Variables become settings or findings, all at once and without a secret in them."""

import base64
import pathlib
import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from flower_agent.config import context, parsing, settings
from flower_agent.config.types import Framework, GpuMode, Isolation, LogLevel, Plugin, Role
from flower_agent.flower import command_line
from flower_agent.model.address import Address
from flower_agent.model.errors import Severity
from flower_agent.model.secret import Secret

DATA = pathlib.Path(__file__).parents[1] / "data"

SERVER = {"FLOWER_ROLE": "server"}
CLIENT = {"FLOWER_ROLE": "client"}
EXEC = {"FLOWER_ROLE": "superexec", "FLOWER_APPIO_ADDRESS": "10.0.0.5:9091"}


def pem(label, content=b"x" * 100):
    body = base64.encodebytes(content).decode()
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n"


CERT, KEY = pem("CERTIFICATE"), pem("PRIVATE KEY")
NODE_KEY = pem("OPENSSH PRIVATE KEY", b"openssh-key-v1\0\0\0\0\4none ecdsa-sha2-nistp384")
PUBLIC_KEY = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAA"
    "BBBI5TO2+gv3tGJbswZnwB+2B++fi4qA/vWzAGKHAxh7Kjc+sdveAzGDZtBp+DpvWQAFPHNjPLBBshxV4ahsH0ALQ="
)


def parse(variables, config=None):
    return parsing.parse(variables, config or {})


def good(variables, config=None):
    parsed = parse(variables, config)
    assert parsed.settings is not None, parsed.findings
    return parsed.settings


def findings(variables, config=None):
    return [(f.code, f.message) for f in parse(variables, config).findings]


def codes(variables, config=None):
    return [finding.code for finding in parse(variables, config).findings]


def want(variables):
    """Return the message of the only finding."""
    (finding,) = parse(variables).findings
    assert finding.code == "setting.invalid"
    return finding.message


# Defaults and roles


@pytest.mark.parametrize("variables", [SERVER, CLIENT, EXEC])
def test_a_role_alone_gives_the_defaults(variables):
    found = good(variables)
    assert codes(variables) == (["appio.plaintext"] if variables is EXEC else [])
    assert str(found.version) == "1.25.0"
    assert (found.num_rounds, found.strategy, found.min_clients) == (None, None, 2)
    assert (found.tls, found.gpu, found.isolation) == (True, GpuMode.NO, Isolation.PROCESS)
    assert found.control_address == Address("127.0.0.1", 9093)
    assert (found.serverappio_port, found.clientappio_port) == (9091, 9094)
    assert (found.fleet_port, found.health_port) == (None, 9097)
    assert (found.run_config, found.tls_sans, found.node_public_keys) == ((), (), ())
    assert (found.node_auth, found.metrics, found.image_prefix) == (None, False, "flwr")
    assert (found.log_level, found.ready_timeout_s) == (LogLevel.INFO, 600)
    assert found.superexec_plugin is Plugin.CLIENTAPP
    unset = (found.server_address, found.tls_ca_cert, found.tls_key, found.framework)
    assert set(unset) == {None}


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("server", Role.SUPERLINK),
        ("SuperLink", Role.SUPERLINK),
        ("CLIENT", Role.SUPERNODE),
        ("supernode", Role.SUPERNODE),
    ],
)
def test_a_role_has_two_names(text, role):
    assert good({"FLOWER_ROLE": text}).role is role


def test_nothing_at_all_misses_only_the_role():
    assert findings({}) == [("setting.missing", "FLOWER_ROLE is not set")]


def test_a_superexec_must_know_where_to_attach():
    assert findings({"FLOWER_ROLE": "superexec"}) == [
        ("setting.missing", "FLOWER_APPIO_ADDRESS is not set")
    ]
    assert good(EXEC).appio_address == Address("10.0.0.5", 9091)


def test_a_bad_value_of_another_role_does_not_stop_this_one():
    assert good({**CLIENT, "FL_NUM_ROUNDS": "many", "FL_CONFIG_X": "\a"}).num_rounds is None
    assert good({**SERVER, "GPU_ENABLED": "perhaps"}).gpu is GpuMode.NO


def test_without_a_valid_role_everything_is_looked_at():
    found = codes({"FLOWER_ROLE": "boss", "FL_NUM_ROUNDS": "many", "GPU_ENABLED": "perhaps"})
    assert found == ["setting.invalid"] * 3


def test_all_findings_come_together_in_the_order_of_the_table():
    found = findings(
        {
            **SERVER,
            "FLOWER_READY_TIMEOUT": "1",
            "TLS_CERT": CERT,
            "FL_NUM_ROUNDS": "0",
            "FLOWER_VERSION": "1.22.0",
            "FLOWER_ROLL": "client",
        }
    )
    assert [message.split()[0] for _, message in found] == [
        "FLOWER_VERSION",
        "FL_NUM_ROUNDS",
        "TLS_CERT",
        "FLOWER_READY_TIMEOUT",
        "FLOWER_ROLL",
    ]
    assert found[-1][0] == "setting.near_miss"


def test_a_warning_does_not_stop_the_vm():
    parsed = parse({**SERVER, "TLS_ENABLED": "NO"})
    assert [(f.code, f.severity) for f in parsed.findings] == [("tls.disabled", Severity.WARNING)]
    assert parsed.settings is not None
    assert parsed.settings.tls is False


# Names


def test_every_name_is_also_read_with_its_prefix():
    assert good({"ONEAPP_FLOWER_ROLE": "server", "ONEAPP_FL_NUM_ROUNDS": "7"}).num_rounds == 7
    assert good({**SERVER, "ONEAPP_FL_CONFIG_LR": "0.1"}).run_config == (("lr", "0.1"),)


def test_both_names_with_one_value_are_fine():
    both = {"FLOWER_ROLE": "server ", "ONEAPP_FLOWER_ROLE": "server"}
    assert good(both).role is Role.SUPERLINK


def test_both_names_with_different_values_are_an_error_without_values():
    found = findings({"FLOWER_ROLE": "server", "ONEAPP_FLOWER_ROLE": "client"})
    message = "FLOWER_ROLE and ONEAPP_FLOWER_ROLE are both set, to different values"
    assert found == [("setting.conflict", message)]


def test_an_empty_value_is_unset():
    variables = {"ONEAPP_FLOWER_ROLE": "", "FLOWER_ROLE": "server", "FL_NUM_ROUNDS": " \n"}
    assert good(variables).num_rounds is None
    assert good({**SERVER, "FL_CONFIG_LR": ""}).run_config == ()


def test_a_finding_names_the_variable_as_it_was_written():
    assert want({**SERVER, "ONEAPP_FL_NUM_ROUNDS": "x"}).startswith("ONEAPP_FL_NUM_ROUNDS is 'x':")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FLOWER_ROLL", "FLOWER_ROLE"),
        ("ONEAPP_FLOWER_VERSON", "FLOWER_VERSION"),
        ("TLS_CRT", "TLS_CERT"),
        ("GPU_ENABLE", "GPU_ENABLED"),
        ("FL_NUM_ROUND", "FL_NUM_ROUNDS"),
        ("FLWR_VERSION", "FLOWER_VERSION"),
    ],
)
def test_a_near_miss_is_a_warning_that_names_what_was_meant(name, meant):
    parsed = parse({**SERVER, name: "x"})
    (finding,) = parsed.findings
    assert (finding.code, finding.severity) == ("setting.near_miss", Severity.WARNING)
    assert finding.message == f"{name} is not known: {meant} is"


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("FL_FRAMEWORK", "ML_FRAMEWORK"),
        ("FL_TLS_ENABLED", "TLS_ENABLED"),
        ("FL_SUPERLINK_ADDRESS", "FLOWER_SERVER_ADDRESS"),
        ("FL_NODE_CONFIG", "FLOWER_NODE_CONFIG"),
        ("FL_ISOLATION", "FLOWER_ISOLATION"),
        ("FL_LOG_LEVEL", "FLOWER_LOG_LEVEL"),
        ("FL_DATABASE", "/var/lib/flower-agent/superlink"),
        ("FL_MAX_RETRIES", "for ever"),
        ("FL_MAX_WAIT_TIME", "for ever"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "ONEAPP_"])
def test_a_name_of_the_earlier_appliance_warns_with_ours(prefix, name, ours):
    (finding,) = parse({**SERVER, prefix + name: "x"}).findings
    assert (finding.code, finding.severity) == ("setting.near_miss", Severity.WARNING)
    assert finding.message.startswith(f"{prefix}{name} is not known: ")
    assert ours in finding.message


@pytest.mark.parametrize("name", ["FLOWER_COLOUR", "FL_TLS", "NETWORK", "TOKEN", "FL_CONFIG_"])
def test_a_far_name_is_silent(name):
    assert codes({**SERVER, name: "x"}) == []


def test_a_mistyped_name_without_value_is_silent():
    assert codes({**SERVER, "FLOWER_ROLL": ""}) == []


def test_the_names_of_a_real_context_are_silent():
    real = context.parse((DATA / "context.sh").read_bytes())
    del real["FL_SUPERLINK_ADDRESS"]  # an earlier appliance's, as a test above has it
    assert codes({**real, **SERVER}) == []


def test_report_ready_is_a_warning():
    assert codes({**SERVER, "REPORT_READY": "YES"}) == ["context.report_ready"]
    assert codes({**SERVER, "REPORT_READY": ""}) == []


# Defaults of the image


def test_the_context_wins_over_the_image():
    config = {"fl_num_rounds": "5", "fl_min_clients": "9", "fl_config_lr": "1"}
    found = good({**SERVER, "FL_NUM_ROUNDS": "7", "FL_CONFIG_LR": "2"}, config)
    assert (found.num_rounds, found.min_clients) == (7, 9)
    assert found.run_config == (("lr", "2"),)


def test_an_unknown_name_of_the_image_is_an_error():
    found = findings(SERVER, {"flower_colour": "red", "FL_NUM_ROUNDS": "5"})
    assert found == [
        ("config.invalid", "config.yaml has FL_NUM_ROUNDS, which is not a variable in lower case"),
        ("config.invalid", "config.yaml has flower_colour, which is not a variable in lower case"),
    ]


def test_a_bad_value_of_the_image_says_where_it_stands():
    (finding,) = parse(SERVER, {"fl_num_rounds": "many"}).findings
    assert finding.message.startswith("fl_num_rounds in config.yaml is 'many': want")
    assert "config.yaml" in finding.hint


# Values


@pytest.mark.parametrize("yes", ["YES", "true", "On", "1"])
@pytest.mark.parametrize("no", ["no", "FALSE", "off", "0"])
def test_booleans_have_four_words_each(yes, no):
    assert good({**SERVER, "TLS_ENABLED": yes}).tls is True
    assert good({**SERVER, "TLS_ENABLED": no}).tls is False
    assert good({**CLIENT, "GPU_ENABLED": yes}).gpu is GpuMode.YES
    assert good({**CLIENT, "GPU_ENABLED": no}).gpu is GpuMode.NO


def test_enumerations_ignore_case():
    variables = {"GPU_ENABLED": "Auto", "ML_FRAMEWORK": "PyTorch", "FLOWER_LOG_LEVEL": "debug"}
    found = good({**CLIENT, **variables})
    assert (found.gpu, found.framework) == (GpuMode.AUTO, Framework.PYTORCH)
    assert found.log_level is LogLevel.DEBUG


def test_node_config_is_pairs():
    found = good({**CLIENT, "FLOWER_NODE_CONFIG": "partition-id=0  data=/x/y,z"})
    assert found.node_config == (("partition-id", "0"), ("data", "/x/y,z"))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('dataset-path="/app/data/x" fold=3', {"dataset-path": "/app/data/x", "fold": 3}),
        ("name='two words' fold='3'", {"name": "two words", "fold": "3"}),
        ("""a="it's" b='say "x"' c="" """, {"a": "it's", "b": 'say "x"', "c": ""}),
        ('a="x=1 y=2" b=0.5', {"a": "x=1 y=2", "b": 0.5}),
        (r"""a='C:\new' b="\u00e4\t" """, {"a": r"C:\new", "b": "ä\t"}),
    ],
)
def test_a_node_config_in_flowers_own_form_is_what_flower_would_read(text, want):
    found = good({**CLIENT, "FLOWER_NODE_CONFIG": text}).node_config
    assert {key: command_line.scalar(value) for key, value in found} == want
    assert as_flower_reads(command_line.node_config_text(found)) == want == as_flower_reads(text)


bare = st.from_regex("[a-z0-9./,;:_-]{1,9}", fullmatch=True)
quoted = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), max_size=9)


@given(
    st.lists(
        st.tuples(
            st.from_regex("[A-Za-z_][A-Za-z0-9_-]{0,9}", fullmatch=True),
            bare
            | quoted.filter(lambda t: "'" not in t).map(lambda t: f"'{t}'")
            | quoted.filter(lambda t: not set('"\\') & set(t)).map(lambda t: f'"{t}"'),
        ).filter(lambda pair: pair[1].isprintable()),
        unique_by=lambda pair: pair[0],
        min_size=1,
    )
)
def test_flower_gets_every_pair_back_as_it_was_written(written):
    text = " ".join(f"{key}={value}" for key, value in written)
    found = good({**CLIENT, "FLOWER_NODE_CONFIG": text}).node_config
    assert found == tuple(written)
    wanted = {key: command_line.scalar(value) for key, value in written}
    assert as_flower_reads(command_line.node_config_text(found)) == wanted


def as_flower_reads(text):
    """Flower's rule: cut with this expression, then read each piece as a line of TOML."""
    pieces = re.findall(r"(\S+?)=(\'[^\']*\'|\"[^\"]*\"|\S+)", text)
    return tomllib.loads("\n".join(f"{key} = {value}" for key, value in pieces))


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "a=",
        "=b",
        "a='b",
        'a="b c',
        "a='b'c=1",
        'a="\\q"',
        "a=1,b=2",
        "a=1 a=2",
        "a=\\n",
        "a.b=1",
        "-a=1",
        "a=b'c'",
        "a='x\ny'",
        "'a'=1",
        "a= 'b'",
    ],
)
def test_a_node_config_that_flower_would_drop_is_refused(text):
    assert "want" in want({**CLIENT, "FLOWER_NODE_CONFIG": text})


def test_run_config_takes_its_keys_from_the_names():
    variables = {"FL_CONFIG_LOCAL_EPOCHS": "5", "FL_CONFIG_LR": "0.1", "FL_CONFIG_a": "1"}
    assert good({**SERVER, **variables}).run_config == (("local-epochs", "5"), ("lr", "0.1"))


def test_a_bad_run_config_shows_its_length():
    message = "FL_CONFIG_LR has 3 characters: want one line of printable characters"
    assert want({**SERVER, "FL_CONFIG_LR": "a\nb"}) == message


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2048M", 2048 << 20),
        ("4G", 4 << 30),
        ("512MiB", 512 << 20),
        ("512 mb", 512 << 20),
        ("1.5g", 3 << 29),
        ("268435456", 256 << 20),
    ],
)
def test_a_memory_limit_has_units(text, size):
    assert good({**CLIENT, "FLOWER_MEMORY_LIMIT": text}).memory_limit == size


def test_data_that_no_app_here_reads_is_a_warning():
    elsewhere = {"FLOWER_DATA": "/srv/data", "FLOWER_APPIO_LISTEN": "127.0.0.1:9094"}
    ((code, message),) = findings({**CLIENT, **elsewhere})
    assert code == "setting.no_effect"
    assert message.startswith("FLOWER_DATA is set, but")
    assert findings({**CLIENT, "FLOWER_DATA": "/srv/data"}) == []


@pytest.mark.parametrize("name", ["outputs_limit", "cache_limit"])
def test_what_apps_may_keep_has_a_limit(name):
    variable = f"FLOWER_{name.upper()}"
    assert getattr(good(SERVER), name) is None
    assert getattr(good({**SERVER, variable: "1.5G"}), name) == 3 << 29
    assert "want a size from 64M" in want({**SERVER, variable: "63M"})


@pytest.mark.parametrize("text", ["1M", "64M", "2G"])
def test_shared_memory_may_be_small(text):
    assert good({**CLIENT, "FLOWER_SHM_SIZE": text}).shm_size
    assert "want a size from 1M" in want({**CLIENT, "FLOWER_SHM_SIZE": "1023K"})


@pytest.mark.parametrize("text", ["255M", "9999999T", "lots", "-4G", "4X", "1e9", "4\u212a"])
def test_a_memory_limit_has_bounds(text):
    assert "want a size" in want({**CLIENT, "FLOWER_MEMORY_LIMIT": text})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FLOWER_FLEET_PORT", "0"),
        ("FLOWER_FLEET_PORT", "65536"),
        ("FLOWER_FLEET_PORT", "9_2"),
        ("FLOWER_HEALTH_PORT", "65534"),
        ("FLOWER_READY_TIMEOUT", "9"),
        ("FLOWER_READY_TIMEOUT", "86401"),
        ("FL_STRATEGY", "Fed Avg"),
        ("FL_STRATEGY", "x" * 65),
        ("FLOWER_IMAGE_PREFIX", "Flwr"),
        ("FLOWER_IMAGE_PREFIX", "flwr/"),
        ("FLOWER_IMAGE_PREFIX", "a/b:5000"),
        ("FLOWER_ADDRESS", "eth"),
        ("FLOWER_ADDRESS", "fl.example.org"),
        ("FLOWER_PUBLIC_ADDRESS", "::"),
        ("FLOWER_PUBLIC_ADDRESS", "a b"),
        ("FLOWER_PUBLIC_ADDRESS", "[fe80::1%a b]:1"),
        ("FLOWER_ADDRESS", "fe80::1%x"),
        ("FLOWER_TLS_SANS", "*.example.org"),
        ("FLOWER_TLS_SANS", "fe80::1%x"),
        ("FLOWER_CONTROL_ADDRESS", "127.0.0.1:x"),
        ("FLOWER_APPIO_LISTEN", "10.0.0.5"),
        ("FLOWER_VERSION", "latest"),
        ("ML_FRAMEWORK", "jax"),
        ("FLOWER_ISOLATION", "vm"),
        ("FLOWER_LOG_LEVEL", "loud"),
    ],
)
def test_a_value_of_the_wrong_form_is_shown_with_what_was_wanted(name, text):
    assert want({**SERVER, name: text}).startswith(f"{name} is '{text[:60]}")


def test_addresses_are_read():
    variables = {
        "FLOWER_ADDRESS": "eth1",
        "FLOWER_PUBLIC_ADDRESS": "fl.example.org:443",
        "FLOWER_TLS_SANS": "a.example.org, 10.0.0.1 a.example.org,fd00::1",
        "FLOWER_CONTROL_ADDRESS": "[::1]",
        "FLOWER_APPIO_LISTEN": "[fd00::1]:9191",
        "FLOWER_IMAGE_PREFIX": "registry.example.org:5000/mirror/flwr",
    }
    found = good({**SERVER, **variables})
    assert found.address == "ETH1"
    assert found.public_address == "fl.example.org:443"
    assert found.tls_sans == ("a.example.org", "10.0.0.1", "fd00::1")
    assert found.control_address == Address("::1", 9093)
    assert found.appio_listen == Address("fd00::1", 9191)
    assert found.image_prefix == "registry.example.org:5000/mirror/flwr"


def test_a_shown_value_is_cut_and_has_no_control_characters():
    message = want({**SERVER, "FLOWER_LOG_LEVEL": "\x1b[31m\n" + "x" * 100})
    assert message.startswith("FLOWER_LOG_LEVEL is '\\x1b[31m\\n" + "x" * 54 + "…': want")


def test_a_value_beyond_the_limit_is_refused_by_length():
    text = "x" * (settings.LENGTH_LIMIT + 1)
    message = "FLOWER_TLS_SANS has 65537 characters: want at most 65536 characters"
    assert want({**SERVER, "FLOWER_TLS_SANS": text}) == message
    assert codes({**SERVER, "SOMETHING_ELSE": text}) == []


@pytest.mark.parametrize(
    "text",
    [
        "https://git.example.org/team/app.git",
        "https://user:pa55@git.example.org:8443/team/app@v1.2#apps/one",
        "ssh://git@git.example.org/team/app@main",
        "git@git.example.org:team/app.git@main#app",
    ],
)
def test_an_app_is_a_git_url_with_ref_and_subdirectory(text):
    assert good({**SERVER, "CUSTOM_APP_REPO": text}).app_repo == text


@pytest.mark.parametrize(
    "text",
    [
        "http://git.example.org/app",
        "ssh://-oProxyCommand=x/app",
        "https://h/app@--upload-pack=x",
        "https://h/app#../etc",
        "file:///etc",
        "/app",
        "https://user:pa55@",
        "ext::sh -c x",
    ],
)
def test_anything_else_is_no_app_and_is_not_shown(text):
    found = parse({**CLIENT, "CUSTOM_APP_REPO": text}).findings
    assert found[0].message.startswith(f"CUSTOM_APP_REPO has {len(text)} characters: want URL")


# Keys and certificates


@pytest.mark.parametrize(
    "given_as",
    [
        str,
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.encodebytes(text.encode()).decode(),
        lambda text: text.replace("\n", " "),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "subject=CN = x\n" + text,
    ],
)
def test_pem_comes_in_many_shapes_and_leaves_in_one(given_as):
    found = good({**SERVER, "TLS_CERT": given_as(CERT), "TLS_KEY": given_as(KEY)})
    assert found.tls_cert == good({**SERVER, "TLS_CERT": CERT, "TLS_KEY": KEY}).tls_cert
    assert found.tls_cert is not None
    assert found.tls_cert.startswith("-----BEGIN CERTIFICATE-----\neHh4")
    assert isinstance(found.tls_key, Secret)
    assert found.tls_key.reveal().endswith("-----END PRIVATE KEY-----\n")


def test_parameters_before_an_ec_key_are_dropped():
    key = pem("EC PARAMETERS") + pem("EC PRIVATE KEY")
    found = good({**SERVER, "TLS_CERT": CERT * 3, "TLS_KEY": key}).tls_key
    assert found is not None
    assert "PARAMETERS" not in found.reveal()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("TLS_CA_CERT", "sytem"),
        ("TLS_CA_CERT", CERT + KEY),
        ("TLS_CA_CERT", CERT[:-20]),
        ("TLS_CA_CERT", CERT.replace("\n", ",\n")),
        ("TLS_CA_CERT", "-----BEGIN CERTIFICATE----------END CERTIFICATE-----"),
        ("TLS_CA_CERT", base64.b64encode(b"\xff\x30").decode()),
        ("TLS_KEY", CERT),
        ("TLS_KEY", KEY + KEY),
        ("TLS_KEY", pem("ENCRYPTED PRIVATE KEY")),
        ("TLS_KEY", NODE_KEY),
    ],
)
def test_what_is_no_certificate_or_key_shows_its_length(name, text):
    variables = {**SERVER, "TLS_CERT": CERT, "TLS_KEY": KEY, name: text}
    assert want(variables).startswith(f"{name} has {len(text.strip())} characters: want ")


def test_commas_that_oneflow_added_are_named():
    damaged = CERT.replace("\n", ",\n").strip(",\n")
    assert "OneFlow" in want({**SERVER, "TLS_CA_CERT": damaged})


def test_the_systems_store_can_be_trusted():
    assert good({**CLIENT, "TLS_CA_CERT": "System"}).tls_ca_cert == "system"


def test_a_fingerprint_may_have_colons():
    text = ":".join(["AB"] * 32)
    assert good({**CLIENT, "FLOWER_CA_FINGERPRINT": text}).ca_fingerprint == "ab" * 32
    assert "64 hexadecimal" in want({**CLIENT, "FLOWER_CA_FINGERPRINT": "ab" * 31})


@pytest.mark.parametrize("text", [KEY, pem("OPENSSH PRIVATE KEY"), NODE_KEY[:-9], "junk"])
def test_a_node_key_must_be_an_openssh_ec_key(text):
    assert "OpenSSH" in want({**CLIENT, "FLOWER_NODE_PRIVATE_KEY": text})


def test_public_keys_must_be_openssh_ec_keys():
    assert "ecdsa" in want({**SERVER, "FLOWER_NODE_PUBLIC_KEYS": "ssh-ed25519 " + "A" * 68})


# What variables must be to each other


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TLS_CERT": CERT}, "TLS_CERT is set without TLS_KEY"),
        ({"TLS_KEY": KEY}, "TLS_KEY is set without TLS_CERT"),
        (
            {"FLOWER_REGISTRY_USER": "u"},
            "FLOWER_REGISTRY_USER is set without FLOWER_REGISTRY_PASSWORD",
        ),
        (
            {"FLOWER_REGISTRY_PASSWORD": "p"},
            "FLOWER_REGISTRY_PASSWORD is set without FLOWER_REGISTRY_USER",
        ),
    ],
)
def test_what_belongs_together_must_be_set_together(variables, message):
    assert findings({**SERVER, **variables}) == [("setting.missing", message)]


def test_a_bad_half_is_not_told_twice():
    assert codes({**SERVER, "TLS_CERT": CERT, "TLS_KEY": "junk"}) == ["setting.invalid"]


def test_one_ca_and_the_systems_store_contradict():
    variables = {"TLS_CA_CERT": "system", "FLOWER_CA_FINGERPRINT": "ab" * 32}
    assert codes({**CLIENT, **variables}) == ["setting.conflict"]


@pytest.mark.parametrize("off", ["FLOWER_NODE_AUTH", "TLS_ENABLED"])
def test_node_keys_without_authentication_have_no_effect(off):
    for variables in (
        {**SERVER, "FLOWER_NODE_PUBLIC_KEYS": PUBLIC_KEY},
        {**CLIENT, "FLOWER_NODE_PRIVATE_KEY": NODE_KEY},
    ):
        found = [f for f in parse({**variables, off: "NO"}).findings if f.code != "tls.disabled"]
        assert [(f.code, f.severity) for f in found] == [("setting.no_effect", Severity.WARNING)]
        assert f"but {off} is NO" in found[0].message
        assert codes(variables) == []


def test_public_keys_are_kept_without_comments_and_once():
    keys = f"{PUBLIC_KEY} a,\n{PUBLIC_KEY}"
    assert good({**SERVER, "FLOWER_NODE_PUBLIC_KEYS": keys}).node_public_keys == (PUBLIC_KEY,)


@pytest.mark.parametrize("cut", [PUBLIC_KEY[:-8], PUBLIC_KEY.replace("p256", "p384", 1)])
def test_a_public_key_that_is_not_whole_is_refused(cut):
    assert "want public keys" in want({**SERVER, "FLOWER_NODE_PUBLIC_KEYS": cut})


def test_node_authentication_needs_tls():
    variables = {"FLOWER_NODE_AUTH": "YES", "TLS_ENABLED": "NO"}
    assert "setting.conflict" in codes({**SERVER, **variables})


@pytest.mark.parametrize("version", ["1.40.0", "1.42.0"])
def test_from_1_40_no_consent_is_wanted_and_an_old_one_is_a_warning(version):
    variables = {**SERVER, "FLOWER_VERSION": version}
    consent = {"FLOWER_CONTROL_ADDRESS": "10.0.0.5:8000"}
    assert codes(variables) == []
    assert codes({**variables, **consent}) == ["control.moved"]
    assert codes({**CLIENT, "FLOWER_VERSION": version, **consent}) == []
    assert codes({**variables, "FLOWER_CONTROL_ADDRESS": "10.0.0.5:8001"}) == ["control.open"]


def test_from_1_40_appio_may_be_offered_at_the_fleet_port_or_another():
    variables = {**SERVER, "FLOWER_VERSION": "1.42.0"}
    for port in (8000, 9191):
        assert codes({**variables, "FLOWER_APPIO_LISTEN": f"10.0.0.5:{port}"}) == []
    assert codes({**variables, "FLOWER_APPIO_LISTEN": "10.0.0.5:9093"}) == ["setting.conflict"]


def test_a_control_api_beyond_loopback_is_a_warning():
    assert codes({**SERVER, "FLOWER_CONTROL_ADDRESS": "::"}) == ["control.open"]
    assert codes({**SERVER, "FLOWER_CONTROL_ADDRESS": "127.0.0.2:1"}) == []


def appio(variables):
    return [code for code in codes(variables) if code.startswith("appio.")]


@pytest.mark.parametrize("base", [SERVER, CLIENT])
@pytest.mark.parametrize(
    ("version", "more", "found"),
    [
        ("1.25.0", {}, ["appio.open"]),
        ("1.29.0", {}, ["appio.open"]),
        ("1.30.0", {}, []),
        ("1.36.0", {}, []),
        ("1.30.0", {"TLS_ENABLED": "NO"}, ["appio.open"]),
        ("1.25.0", {"FLOWER_APPIO_LISTEN": "127.0.0.1:9191"}, []),
    ],
)
def test_an_appio_that_leaves_the_vm_without_tls_is_a_warning(base, version, more, found):
    variables = {"FLOWER_VERSION": version, "FLOWER_APPIO_LISTEN": "10.0.0.5:9191", **more}
    assert appio({**base, **variables}) == found


@pytest.mark.parametrize(
    ("version", "more", "found"),
    [
        ("1.25.0", {}, ["appio.plaintext"]),
        ("1.30.0", {}, []),
        ("1.30.0", {"TLS_ENABLED": "NO"}, ["appio.plaintext"]),
        ("1.25.0", {"FLOWER_APPIO_ADDRESS": "localhost:9091"}, []),
    ],
)
def test_a_superexec_that_attaches_without_tls_is_a_warning(version, more, found):
    assert appio({**EXEC, "FLOWER_VERSION": version, **more}) == found


def test_from_1_37_a_superlinks_appio_is_offered_at_the_control_address_only():
    variables = {**SERVER, "FLOWER_VERSION": "1.37.0", "FLOWER_APPIO_LISTEN": "10.0.0.5:9191"}
    assert codes(variables) == ["setting.no_effect"]
    assert codes({**variables, "FLOWER_CONTROL_ADDRESS": "10.0.0.5:9191"}) == ["control.open"]
    assert codes({**CLIENT, **variables, "FLOWER_ROLE": "client"}) == []


def test_apps_run_elsewhere_or_in_flowers_own_container():
    variables = {"FLOWER_APPIO_LISTEN": "127.0.0.1:9191", "FLOWER_ISOLATION": "subprocess"}
    assert codes({**SERVER, **variables}) == ["setting.conflict"]


def test_a_version_beyond_the_table_is_a_warning():
    assert codes({**CLIENT, "FLOWER_VERSION": "1.99.0"}) == ["version.newer"]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {**SERVER, "FLOWER_FLEET_PORT": "9091"},
            "FLOWER_FLEET_PORT and FLOWER_SERVERAPPIO_PORT both take port 9091",
        ),
        (
            {**SERVER, "FLOWER_HEALTH_PORT": "9091"},
            "FLOWER_CONTROL_ADDRESS and FLOWER_HEALTH_PORT both take port 9093",
        ),
        (
            {**SERVER, "FLOWER_APPIO_LISTEN": "10.0.0.5:9092"},
            "FLOWER_FLEET_PORT and FLOWER_APPIO_LISTEN both take port 9092",
        ),
        (
            {**CLIENT, "FLOWER_CLIENTAPPIO_PORT": "9099"},
            "FLOWER_CLIENTAPPIO_PORT and FLOWER_HEALTH_PORT both take port 9099",
        ),
    ],
)
def test_two_apis_cannot_share_a_port(variables, message):
    assert ("setting.conflict", message) in findings(variables)


def test_ports_that_the_version_joins_are_not_counted_twice():
    joined = {"FLOWER_VERSION": "1.37.0", "FLOWER_SERVERAPPIO_PORT": "9092"}
    assert codes({**SERVER, **joined}) == []
    one_port = {"FLOWER_VERSION": "1.42.0", "FLOWER_CONTROL_ADDRESS": "10.0.0.5:8000"}
    assert codes({**SERVER, **one_port}) == ["control.moved"]


def test_the_fleet_port_is_the_versions_own():
    exposed = {"FLOWER_VERSION": "1.40.0", "FLOWER_CONTROL_ADDRESS": "10.0.0.5:8000"}
    found = codes({**SERVER, **exposed, "FLOWER_HEALTH_PORT": "7998"})
    assert "setting.conflict" in found


def test_a_superlink_submits_the_app_of_its_context():
    assert parse({**SERVER, "CUSTOM_APP_REPO": "https://h/app"}).findings == ()


def test_a_supernode_gets_what_the_app_needs():
    assert parse({**CLIENT, "CUSTOM_APP_REPO": "https://h/app"}).findings == ()


# The table


@pytest.mark.parametrize("row", settings.SETTINGS, ids=lambda row: row.name)
def test_every_example_is_valid_and_every_row_explained(row):
    assert row.help.endswith(".")
    assert row.sample
    if "…" not in row.sample:
        row.read(row.sample)


def test_the_secrets_are_known():
    bare = {"TLS_KEY", "FLOWER_NODE_PRIVATE_KEY", "FLOWER_REGISTRY_PASSWORD", "FLOWER_HTTP_PROXY"}
    bare |= {"FLOWER_HTTPS_PROXY", "FLOWER_ENV_<KEY>", "FLOWER_GATEWAY_KEY"}
    bare |= {"FLOWER_OIDC_CLIENT_SECRET"}
    assert settings.secret_names() == bare | {f"ONEAPP_{name}" for name in bare}


# Properties

known = st.sampled_from([row.name.replace("<KEY>", "LR") for row in settings.SETTINGS])
prefixed = st.builds("{}{}".format, st.sampled_from(["", "ONEAPP_"]), known)
samples = st.sampled_from([row.sample for row in settings.SETTINGS])
texts = st.text(st.characters(), max_size=30) | samples
contexts = st.dictionaries(prefixed | st.text(max_size=20), texts, max_size=12)
configs = st.dictionaries(known.map(str.lower) | st.text(max_size=20), texts, max_size=4)


@effort(max_examples=60, deadline=None)
@given(contexts, st.sampled_from([{}, SERVER, CLIENT, EXEC]), configs)
def test_any_text_gives_settings_or_errors(variables, role, config):
    parsed = parsing.parse({**variables, **role}, config)
    failed = any(finding.severity is Severity.ERROR for finding in parsed.findings)
    assert failed == (parsed.settings is None)
    for finding in parsed.findings:
        assert finding.message.isprintable()


@effort(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted({*settings.secret_names(), "CUSTOM_APP_REPO", "TLS_CERT"})).map(
            lambda name: name.replace("<KEY>", "HF_TOKEN")
        ),
        st.sampled_from(["{}", "https://u:{}@h/a", "{}\n{}", KEY + "{}", "-----BEGIN {}"]),
        min_size=1,
    ),
    st.from_regex("hunter[0-9]{6}", fullmatch=True),
    st.sampled_from([{}, SERVER, CLIENT, EXEC]),
)
def test_no_secret_is_in_a_finding_or_shown_by_the_settings(forms, secret, role):
    variables = {name: form.replace("{}", secret) for name, form in forms.items()}
    parsed = parsing.parse({**variables, **role}, {})
    assert secret not in repr(parsed.findings)
    if "CUSTOM_APP_REPO" not in forms:
        assert secret not in repr(parsed.settings)


@pytest.mark.parametrize("off", ["FLOWER_NODE_AUTH", "TLS_ENABLED"])
def test_partitions_without_enrolment_are_assigned_to_nobody(off):
    parsed = parsing.parse({"FLOWER_ROLE": "server", "FLOWER_PARTITIONS": "4", off: "NO"}, {})
    assert parsed.settings.partitions == 4
    found = [f.message for f in parsed.findings if f.code == "setting.no_effect"]
    assert found == [f"FLOWER_PARTITIONS is set, but {off} is NO, so the SuperLink enrols nobody"]
