"""Flower's versions and the command lines for them.

``flower-flags.txt`` holds the flags of every release as their argument parsers declare them,
``flower-bands.json`` the bands; golden files in ``data/flower`` show each band's command lines,
one argument a line (REGENERATE=1 writes them anew).
"""

import json
import os
import pathlib
import re
import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flower_agent.config import flower_versions
from flower_agent.config.flower_versions import Transport
from flower_agent.flower import command_line
from flower_agent.flower.command_line import Trust
from flower_agent.model.address import Address

DATA = pathlib.Path(__file__).parents[1] / "data"
BANDS = {
    row["id"]: row for row in json.loads((DATA / "flower-bands.json").read_text("utf-8"))["bands"]
}
RELEASES = [f"1.{minor}.0" for minor in range(23, 43)] + ["1.26.1", "1.32.1"]
PROCESS, SUBPROCESS = "process", "subprocess"
CONTROL = Address("127.0.0.1", 9093)
HEALTH = Address("127.0.0.1", 9097)
NODE_CONFIG = (("partition-id", "0"), ("num-partitions", "2"))


def version(text):
    return flower_versions.parse_version(text)


def fleet(of, host="10.0.0.5"):
    return Address(host, flower_versions.default_fleet_port(of))


def superlink(text, *, tls=True, isolation=PROCESS, **more):
    of = version(text)
    places = {"fleet": fleet(of), "control": CONTROL, "serverappio": Address("127.0.0.1", 9091)}
    settings = {"node_auth": tls, "health": HEALTH, **places, **more}
    return command_line.superlink_command(of, tls=tls, isolation=isolation, **settings)


def supernode(text, *, trust=Trust.CA, key=False, isolation=PROCESS, config=NODE_CONFIG):
    of = version(text)
    return command_line.supernode_command(
        of,
        superlink=fleet(of),
        clientappio=Address("127.0.0.1", 9094),
        health=HEALTH,
        trust=trust,
        isolation=isolation,
        node_config=config,
        private_key=key,
    )


def superexec(text, plugin):
    """The SuperExec beside a SuperLink (serverapp) or a SuperNode (clientapp)."""
    of = version(text)
    appio = command_line.supernode_appio(of, Address("127.0.0.1", 9094))
    if plugin == "serverapp":
        appio = endpoints(text).appio
    return command_line.superexec_command(
        of,
        plugin=plugin,
        attach=appio.dial,
        health=HEALTH,
        trust=Trust.CA if appio.tls else Trust.INSECURE,
    )


def endpoints(text, **more):
    of = version(text)
    given = {"fleet": fleet(of), "control": CONTROL, "serverappio": Address("127.0.0.1", 9091)}
    return command_line.superlink_endpoints(of, **{"tls": True, **given, **more})


CASES = {
    "superlink": {
        "TLS, node authentication": superlink,
        "TLS, no node authentication": lambda text: superlink(text, node_auth=False),
        "insecure": lambda text: superlink(text, tls=False),
        "TLS, subprocess isolation": lambda text: superlink(text, isolation=SUBPROCESS),
        "TLS, AppIo with TLS too": lambda text: superlink(text, appio_tls=True),
    },
    "supernode": {
        "the agent's CA, a key": lambda text: supernode(text, key=True),
        "the agent's CA": supernode,
        "the system's CAs": lambda text: supernode(text, trust=Trust.SYSTEM),
        "insecure": lambda text: supernode(text, trust=Trust.INSECURE),
        "subprocess isolation": lambda text: supernode(text, isolation=SUBPROCESS),
        "no node config": lambda text: supernode(text, config=()),
    },
    "superexec": {
        "beside a SuperLink": lambda text: superexec(text, "serverapp"),
        "beside a SuperNode": lambda text: superexec(text, "clientapp"),
    },
}

# --- golden files


@pytest.mark.parametrize("part", CASES)
@pytest.mark.parametrize("text", ["1.25.0", "1.30.0", "1.36.0", "1.39.0", "1.42.0"])
def test_the_command_lines_of_a_band_are_as_written_down(text, part):
    path = DATA / "flower" / f"{flower_versions.band(version(text)).id}-{text}-{part}.txt"
    sections = (
        "\n".join([f"[{case}]", *command(text)]) + "\n" for case, command in CASES[part].items()
    )
    shown = "\n".join(sections)
    if os.environ.get("REGENERATE"):
        assert not os.environ.get("CI"), "golden files are written by a person"
        path.write_text(shown, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == shown


# --- every flag, of every release


def read_flags():
    """Return for each program its flags: (first, last, [(since, text)], deprecated since)."""
    programs = {}
    for line in (DATA / "flower-flags.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("====="):
            flags = programs.setdefault(line.split()[1], {})
            continue
        flag, span, notes = re.fullmatch(r"(--\S+)\s+(\S+)\s+(.*)", line).groups()
        notes, _, deprecated = notes.partition("DEPRECATED since ")
        changes = [change.split(": ", 1) for change in re.split(r" \| (?=1\.)", notes.strip())]
        first, last = span.split("..")
        flags[flag] = (
            first,
            last,
            [(number(since.rstrip(":")), text) for since, text in ((*c, "")[:2] for c in changes)],
            deprecated.strip(),
        )
    return programs


def number(text):
    return tuple(int(part) for part in text.split("."))


FLAGS = read_flags()
ALIAS = "--serverappio-api-address"
"""Its mark belongs to its old alias, ``--simulationio-api-address``; it is hidden from 1.35."""


def complaint(program, flag, release):
    """Say why `flag` may not be given to `program` of `release`; None when it may."""
    if flag not in FLAGS[program]:
        return "unknown"
    first, last, changes, deprecated = FLAGS[program][flag]
    if not number(first) <= number(release) <= number(last):
        return f"exists from {first} to {last}"
    if "HIDDEN" in [text for since, text in changes if since <= number(release)][-1]:
        return "hidden"
    if deprecated and number(release) >= number(deprecated) and flag != ALIAS:
        return f"deprecated since {deprecated}"
    return None


@pytest.mark.parametrize("part", CASES)
@pytest.mark.parametrize("release", RELEASES)
def test_every_flag_is_alive_in_its_release(release, part):
    commands = [command(release) for command in CASES[part].values()]
    flags = {word for command in commands for word in command if word.startswith("--")}
    assert len(flags) > 3
    wrong = {flag: complaint(f"flower-{part}", flag, release) for flag in flags}
    assert {flag: why for flag, why in wrong.items() if why} == {}


@pytest.mark.parametrize("release", RELEASES)
def test_every_flag_that_a_superexec_requires_is_given(release):
    required = {
        flag
        for flag, (first, last, changes, _) in FLAGS["flower-superexec"].items()
        if number(first) <= number(release) <= number(last)
        and [text for since, text in changes if since <= number(release)][-1].startswith("True")
    }
    assert required <= set(superexec(release, "clientapp"))


@pytest.mark.parametrize("part", CASES)
@pytest.mark.parametrize("release", RELEASES)
def test_no_flag_is_given_twice(release, part):
    for command in CASES[part].values():
        flags = [word for word in command(release) if word.startswith("--")]
        assert len(flags) == len(set(flags))


def test_the_file_of_flags_is_read_as_meant():
    assert (
        complaint("flower-superlink", "--storage-dir", "1.29.0") == "exists from 1.20.0 to 1.28.0"
    )
    assert complaint("flower-superlink", "--control-api-address", "1.36.0") is None
    assert complaint("flower-superlink", "--control-api-address", "1.37.0").startswith("deprecated")
    assert complaint("flower-superlink", ALIAS, "1.34.0") is None
    assert complaint("flower-superlink", ALIAS, "1.35.0") == "hidden"
    assert complaint("flower-superexec", "--appio-api-address", "1.36.0") == "hidden"


# --- bands


@pytest.mark.parametrize("name", ["A2", "B", "C", "D", "E"])
def test_a_band_begins_and_ends_where_it_does(name):
    first, last = BANDS[name]["from"], BANDS[name]["to"]
    assert flower_versions.band(version(first)).id == name
    assert flower_versions.band(version(last)).id == name
    assert flower_versions.band(version(last.replace(".0", ".99"))).id == name


def test_the_table_covers_exactly_the_bands_that_are_supported():
    assert list(dict.fromkeys(row.id for row in flower_versions.BANDS)) == [
        "A2",
        "B",
        "C",
        "D",
        "E",
    ]
    assert flower_versions.BANDS[0].since == flower_versions.OLDEST
    assert ".".join(map(str, flower_versions.NEWEST)) + ".0" == BANDS["E"]["to"]
    assert [row.since for row in flower_versions.BANDS] == sorted(
        {row.since for row in flower_versions.BANDS}
    )


def test_a_version_newer_than_the_table_gets_the_newest_band():
    assert flower_versions.newer_than_known(version("1.43.0"))
    assert flower_versions.newer_than_known(version("2.0.0"))
    assert not flower_versions.newer_than_known(version("1.42.7"))
    assert flower_versions.band(version("2.0.0")) == flower_versions.BANDS[-1]


def test_the_default_version_is_known():
    assert flower_versions.band(version(flower_versions.DEFAULT)).id == "A2"


@pytest.mark.parametrize(
    ("before", "since", "change"),
    [
        ("1.23.0", "1.24.0", {"suffix", "announces_node", "losses", "deaf_after_loss"}),
        ("1.27.0", "1.28.0", {"environment"}),
        ("1.28.0", "1.29.0", {"storage"}),
        (
            "1.29.0",
            "1.30.0",
            {"id", "appio_tls_flags", "node_appio_tls_flags", "launch", "losses"},
        ),
        ("1.31.0", "1.32.0", {"environment"}),
        ("1.32.0", "1.33.0", {"deaf_after_loss"}),
        ("1.34.0", "1.35.0", {"id", "appio", "appio_flag", "node_appio_flag"}),
        ("1.35.0", "1.36.0", {"attach_flag"}),
        (
            "1.36.0",
            "1.37.0",
            {
                *("id", "control", "control_flag"),
                *("appio_tls_flags", "appio_shares_tls", "node_appio_tls_flags"),
            },
        ),
        ("1.37.0", "1.38.0", {"plugin"}),
        ("1.39.0", "1.40.0", {"id", "fleet", "fleet_flag", "fleet_port", "proxied"}),
        ("1.40.0", "1.42.0", set()),
    ],
)
def test_a_boundary_changes_what_it_should_and_nothing_else(before, since, change):
    old, new = flower_versions.band(version(before)), flower_versions.band(version(since))
    fields = set(flower_versions.Band.__slots__) - {"since"}
    assert {field for field in fields if getattr(old, field) != getattr(new, field)} == change


# --- versions and images


@pytest.mark.parametrize(
    "text", ["1.23.0", "1.25.0", "1.26.1", "1.25.0-py3.13-ubuntu24.04", "1.25.0-acme.7", "10.20.30"]
)
def test_a_version_shows_as_it_was_given(text):
    assert str(version(text)) == text
    assert ".".join(map(str, version(text).release)) == text.split("-")[0]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1.22.0", "1.23.0 or newer"),
        ("0.1.0", "1.23.0 or newer"),
        ("1.25", "three numbers, such as 1.25.0"),
        ("latest", "a fixed version"),
        ("nightly", "a fixed version"),
        ("1.26.0rc1", "not a preview"),
        ("1.26.0-rc1", "not a preview"),
        ("1.26.0.dev20251201", "not a preview"),
        ("1.26.0-nightly", "not a preview"),
        ("1.26.0b1", "not a preview"),
        ("v1.25.0", "a Flower version such as 1.25.0"),
        ("1.25.0 ", "a Flower version such as 1.25.0"),
        ("1.25.0/x", "a Flower version such as 1.25.0"),
        ("1.25.0@sha256:00", "a Flower version such as 1.25.0"),
        ("\u0661.\u0662\u0665.\u0660", "a Flower version such as 1.25.0"),
        ("1.25.0-" + "x" * 122, "a Flower version such as 1.25.0"),
        ("", "a Flower version such as 1.25.0"),
    ],
)
def test_what_is_no_version_is_refused_with_the_reason(text, wanted):
    with pytest.raises(ValueError, match=r"^want ") as caught:
        version(text)
    assert wanted in str(caught.value)


@given(st.text())
def test_any_text_is_a_version_or_a_plain_refusal(text):
    try:
        assert str(version(text)) == text
    except ValueError as error:
        assert str(error).startswith("want ")  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    ("text", "superlink_tag", "superexec_tag"),
    [
        ("1.23.0", "1.23.0-py3.12-ubuntu24.04", "1.23.0"),
        ("1.24.0", "1.24.0-py3.13-ubuntu24.04", "1.24.0"),
        ("1.25.0", "1.25.0-py3.13-ubuntu24.04", "1.25.0"),
        ("1.42.0", "1.42.0-py3.13-ubuntu24.04", "1.42.0"),
        ("1.25.0-py3.11-ubuntu24.04", "1.25.0-py3.11-ubuntu24.04", "1.25.0-py3.11-ubuntu24.04"),
        ("1.25.0-py3.13-alpine3.22", "1.25.0-py3.13-alpine3.22", "1.25.0"),
    ],
)
def test_a_version_names_its_images(text, superlink_tag, superexec_tag):
    images = {part: flower_versions.image("flwr", part, version(text)) for part in CASES}
    assert images == {
        "superlink": f"flwr/superlink:{superlink_tag}",
        "supernode": f"flwr/supernode:{superlink_tag}",
        "superexec": f"flwr/superexec:{superexec_tag}",
    }


def test_the_prefix_names_registry_and_namespace():
    name = flower_versions.image(
        "registry.example.org:5000/mirror/flwr", "superexec", version("1.25.0")
    )
    assert name == "registry.example.org:5000/mirror/flwr/superexec:1.25.0"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1.27.0", set()),
        ("1.28.0", {"FLWR_DISABLE_UPDATE_CHECK"}),
        ("1.31.0", {"FLWR_DISABLE_UPDATE_CHECK"}),
        ("1.32.0", {"FLWR_DISABLE_UPDATE_CHECK", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"}),
    ],
)
def test_telemetry_is_off_and_nothing_is_fetched_in_any_version(text, names):
    variables = flower_versions.environment(version(text), debug=False)
    assert list(variables) == sorted(variables)
    common = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_LOG_LEVEL": "INFO"}
    assert dict(variables) == common | dict.fromkeys(names, "1")


def test_debug_reaches_flower():
    assert ("FLWR_LOG_LEVEL", "DEBUG") in flower_versions.environment(version("1.25.0"), debug=True)


# --- where the APIs are


def test_up_to_1_34_each_api_has_a_grpc_port_of_its_own():
    places = endpoints("1.34.0")
    assert [str(place.listen) for place in (places.fleet, places.control, places.appio)] == [
        "10.0.0.5:9092",
        "127.0.0.1:9093",
        "127.0.0.1:9091",
    ]
    assert {places.fleet.transport, places.control.transport, places.appio.transport} == {
        Transport.GRPC
    }
    assert (places.fleet.tls, places.control.tls, places.appio.tls) == (True, True, False)


def test_from_1_35_the_appio_speaks_http():
    places = endpoints("1.35.0")
    assert (places.appio.transport, str(places.appio.listen)) == (Transport.HTTP, "127.0.0.1:9091")
    assert places.control.transport is Transport.GRPC


def test_from_1_37_the_appio_shares_the_control_apis_port_and_tls():
    places = endpoints("1.37.0")
    assert places.appio == places.control
    assert (str(places.control.listen), places.control.transport) == (
        "127.0.0.1:9093",
        Transport.HTTP,
    )
    assert places.appio.tls
    assert places.fleet.transport is Transport.GRPC
    assert not flower_versions.band(version("1.39.0")).proxied


def test_from_1_40_the_superlink_listens_at_the_control_address_and_a_proxy_at_the_fleets():
    places = endpoints("1.40.0")
    assert (str(places.fleet.listen), places.fleet.transport) == ("10.0.0.5:8000", Transport.HTTP)
    assert str(places.control.listen) == "127.0.0.1:9093"
    assert places.appio == places.control
    command = " ".join(superlink("1.40.0"))
    assert "--host 127.0.0.1 --port 9093" in command
    assert "8000" not in command


def test_from_1_40_an_appio_that_is_offered_elsewhere_is_the_proxys_too():
    places = endpoints("1.42.0", appio_tls=True, serverappio=Address("10.0.0.5", 9191))
    assert str(places.appio.listen) == "10.0.0.5:9191"
    assert places.appio.tls
    assert "9191" not in superlink("1.42.0", appio_tls=True)


@pytest.mark.parametrize(
    ("release", "control", "fleet_port", "listens"),
    [
        ("1.42.0", "127.0.0.1:9093", None, "127.0.0.1:9093"),
        ("1.42.0", "127.0.0.1:19093", None, "127.0.0.1:19093"),
        ("1.42.0", "10.0.0.5:8000", None, "127.0.0.1:9093"),
        ("1.42.0", "10.0.0.5:443", 443, "127.0.0.1:9093"),
        ("1.42.0", "10.0.0.5:8000", 443, "10.0.0.5:8000"),
        ("1.39.0", "10.0.0.5:9092", 9092, "10.0.0.5:9092"),
    ],
)
def test_a_control_address_at_the_proxys_port_means_the_default(
    release, control, fleet_port, listens
):
    host, _, port = control.rpartition(":")
    given = Address(host, int(port))
    assert str(flower_versions.control_listen(version(release), given, fleet_port)) == listens


@pytest.mark.parametrize("release", RELEASES)
def test_without_tls_no_api_has_it(release):
    places = endpoints(release, tls=False, appio_tls=True)
    assert [place.tls for place in (places.fleet, places.control, places.appio)] == [False] * 3


@pytest.mark.parametrize(
    ("release", "has_tls"), [("1.29.0", False), ("1.30.0", True), ("1.36.0", True)]
)
def test_the_appio_gets_tls_of_its_own_where_it_can(release, has_tls):
    assert endpoints(release, appio_tls=True).appio.tls is has_tls
    assert ("--appio-ssl-certfile" in superlink(release, appio_tls=True)) is has_tls


@pytest.mark.parametrize(
    ("listen", "dial"),
    [
        ("0.0.0.0", "127.0.0.1:8000"),  # noqa: S104 - only composed
        ("::", "[::1]:8000"),
        ("10.0.0.5", "10.0.0.5:8000"),
    ],
)
def test_a_client_on_the_same_machine_dials_an_address_that_exists(listen, dial):
    places = endpoints("1.42.0", control=Address(listen, 8000))
    assert str(places.appio.dial) == dial


def test_an_ipv6_address_is_bracketed_only_where_the_port_follows():
    command = superlink("1.39.0", fleet=Address("fd00::5", 9092), control=Address("::1", 9093))
    assert command[command.index("--fleet-api-address") + 1] == "[fd00::5]:9092"
    assert command[command.index("--host") + 1] == "::1"


# --- what Flower refuses is refused before


def test_node_authentication_wants_tls():
    with pytest.raises(ValueError, match="requires TLS"):
        superlink("1.25.0", tls=False, node_auth=True)
    with pytest.raises(ValueError, match="requires TLS"):
        supernode("1.25.0", trust=Trust.INSECURE, key=True)


def test_a_superexec_of_1_29_cannot_have_tls():
    given = {"plugin": "serverapp", "attach": CONTROL, "health": HEALTH, "trust": Trust.CA}
    with pytest.raises(ValueError, match=r"AppIo of Flower 1\.29\.0 has no TLS"):
        command_line.superexec_command(version("1.29.0"), **given)
    assert "--root-certificates" in command_line.superexec_command(version("1.30.0"), **given)


# --- node config


def as_flower_reads(text):
    """Flower's rule: cut with this expression, then read each piece as a line of TOML."""
    pieces = re.findall(r"(\S+?)=(\'[^\']*\'|\"[^\"]*\"|\S+)", text)
    return tomllib.loads("\n".join(f"{key} = {value}" for key, value in pieces))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-5", -5),
        ("0.1", 0.1),
        ("1e-3", 0.001),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("adam", "adam"),
        ('"5"', "5"),
        ("'5'", "5"),
        ("007", "007"),
        ("2025-01-31", "2025-01-31"),
        ("07:30:00", "07:30:00"),
        ("[1, 2]", "[1, 2]"),
        ("{a = 1}", "{a = 1}"),
        ("5 # five", "5 # five"),
        ("1\nb = 2", "1\nb = 2"),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", "9223372036854775808"),
        ("", ""),
    ],
)
def test_a_value_is_what_flower_would_make_of_it(text, value):
    found = command_line.scalar(text)
    assert (type(found), found) == (type(value), value)


def test_numbers_and_switches_are_bare_and_words_are_quoted():
    pairs = (("partition-id", "3"), ("rate", "0.5"), ("on", "true"), ("name", "a b"))
    text = 'partition-id=3 rate=0.5 on=true name="a b"'
    assert command_line.node_config_text(pairs) == text


@given(st.text(st.characters(codec="utf-8")))
@example('a "quoted" word')
@example("it's")
@example("back\\slash\\")
@example("x=1 y=2")
@example("data.toml")
@example("two\nlines\r\n\t\0")
@example("\U0001f33b \U000e0001 \u00a0 \u2028")
@example("inf")
def test_flower_gets_every_value_back(value):
    text = command_line.node_config_text((("first", value), ("second", "2")))
    assert as_flower_reads(text) == {"first": command_line.scalar(value), "second": 2}
    assert not text.endswith(".toml")


@pytest.mark.parametrize("key", ["", "-a", "a b", "a=b", "ä", 'a"b', "a..b", ".a", "a."])
def test_a_key_that_flower_would_drop_is_refused(key):
    with pytest.raises(ValueError, match="want a key of letters"):
        command_line.node_config_text(((key, "1"),))


def test_a_dotted_key_reaches_flower():
    assert as_flower_reads(command_line.node_config_text((("a.b", "1"),))) == {"a": {"b": 1}}
