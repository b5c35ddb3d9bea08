"""Which variables OpenNebula asks for, made from the agent's table of variables. Pure.

Every input is a text without a default, since only that gets an empty answer into the VM as empty:
of a number or a list without an answer OpenNebula's CLI sends nothing, and OneFlow then refuses the
whole service; an empty boolean ends the CLI (src/cli/one_helper.rb, parse_user_inputs). A default
here would also win over the image's ``config.yaml`` and stand against the bare name of a variable
that ``onevm updateconf`` sets later.
"""

from collections.abc import Collection, Iterable
from typing import Any

from flower_agent.config import names
from flower_agent.config.settings import SETTINGS, Setting
from flower_agent.config.types import Role

BY_THE_TEMPLATE = frozenset({"FLOWER_ROLE"})
"""Said by the VM template."""

FOR_ONE_MACHINE = frozenset(
    {"FLOWER_HEALTH_PORT", "FLOWER_SERVERAPPIO_PORT", "FLOWER_CLIENTAPPIO_PORT"}
)
"""Ports that matter where several agents share a machine; a VM has one."""

OUTSIDE_A_SERVICE = frozenset(
    {"FLOWER_SERVER_ADDRESS", "FLOWER_APPIO_LISTEN", "FLOWER_NODE_PRIVATE_KEY"}
    | {"TLS_CA_CERT", "TLS_CERT", "TLS_KEY", "FLOWER_CA_FINGERPRINT", "FLOWER_STATE_DISK"}
    | {"FLOWER_GATEWAY_CERT", "FLOWER_GATEWAY_KEY", "FLOWER_OIDC_CLIENT_SECRET"}
)
"""Not for a service: a given address would not follow the SuperLink, OneFlow hands every input to
every VM, the CA is made only when the SuperLink boots, and its nodes find both by themselves. The
state disk is there only if the VM template has one, which then names it."""

IN_A_SERVICE = frozenset({Role.SUPERLINK, Role.SUPERNODE})

APPS = {
    "FLOWER": "Flower",
    "FL": "Run",
    "TLS": "TLS",
    "ML": "Framework",
    "GPU": "GPU",
    "CUSTOM": "App",
}
"""Sunstone groups ONEAPP_<APP>_… by APP and shows this as the group's title."""


def offered(role: Role) -> tuple[Setting[Any], ...]:
    """Return the rows that a VM of `role` by itself is asked for, in the table's order."""
    return _offered({role}, BY_THE_TEMPLATE | FOR_ONE_MACHINE)


def offered_in_a_service() -> tuple[Setting[Any], ...]:
    """Return the rows that a service is asked for, once for all its roles."""
    return _offered(IN_A_SERVICE, BY_THE_TEMPLATE | FOR_ONE_MACHINE | OUTSIDE_A_SERVICE)


def offered_by_an_appliance() -> tuple[Setting[Any], ...]:
    """Return the rows that an image is described by, whichever role its VM gets."""
    return tuple(row for row in SETTINGS if row.stem is None and row.name not in FOR_ONE_MACHINE)


def _offered(roles: Collection[Role], kept: Collection[str]) -> tuple[Setting[Any], ...]:
    return tuple(
        row
        for row in SETTINGS
        if row.stem is None and row.name not in kept and {*row.roles} & {*roles}
    )


def inputs(
    rows: Iterable[Setting[Any]], mandatory: Collection[str] = frozenset()
) -> dict[str, str]:
    """Return USER_INPUTS for `rows`: name with ``ONEAPP_`` and ``M|type|description||``."""
    return {
        names.PREFIX + row.name: _input(row, mandatory=row.required or row.name in mandatory)
        for row in rows
    }


def metadata(rows: Iterable[Setting[Any]]) -> list[dict[str, str]]:
    """Return the titles of the groups in which Sunstone shows the inputs of `rows`."""
    apps = dict.fromkeys(row.name.partition("_")[0] for row in rows)
    return [{"NAME": app, "TITLE": APPS[app], "TYPE": "APP"} for app in apps]


def _input(row: Setting[Any], *, mandatory: bool) -> str:
    need, kind = "M" if mandatory else "O", "password" if row.secret else "text"
    unset = row.default or row.unset
    empty = f" Empty: {unset}." if not mandatory and unset != "none" else ""
    return f"{need}|{kind}|{_plain(row.help + empty)}||"


def _plain(text: str) -> str:
    return text.replace("`", "").replace("|", "or")
