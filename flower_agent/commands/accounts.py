"""``flower-agent accounts`` and ``open``: the people who use this SuperLink's federation."""

import contextlib
import dataclasses
import datetime
import getpass
import json
import os
import pathlib
import sys
from collections.abc import Iterator

from flower_agent.commands import recording
from flower_agent.config import flower_versions
from flower_agent.config.account_roles import AccountRole
from flower_agent.gateway.accounts import Account, Accounts, made_password
from flower_agent.gateway.database import Database
from flower_agent.gateway.gateway_config import (
    CONFIG_FILE,
    DATABASE_FILE,
    FIRST_PASSWORD_FILE,
    GatewayConfig,
    read_config,
)
from flower_agent.model.errors import AgentError
from flower_agent.model.record import Entry, Event
from flower_agent.paths import Paths
from flower_agent.proxy.proxy_files import GATEWAY_FILE
from flower_agent.tls import certificates

_OFF = "Set FLOWER_GATEWAY=YES in the SuperLink's context, and run the command on its VM."
NAME = "federation"


def show(paths: Paths, *, as_json: bool) -> int:
    """Print the local accounts."""
    with _opened(paths) as accounts:
        rows = [_row(account) for account in accounts.list()]
    if as_json:
        print(json.dumps({"schema": 1, "accounts": rows}, indent=1))
        return 0
    if not rows:
        print("there are no local accounts")
        return 0
    line = "{:<24}  {:<10}  {:<9}  {}"
    print(line.format("ACCOUNT", "ROLE", "STATE", "SINCE"))
    for row in rows:
        state = "disabled" if row["disabled"] else "active"
        print(line.format(row["name"], row["role"], state, row["created"]))
    return 0


def add(paths: Paths, name: str, role: AccountRole, *, from_stdin: bool) -> int:
    """Add an account; without a given password one is made and printed."""
    password, made = _password(from_stdin=from_stdin)
    with _changed(paths, name, f"add as {role}") as accounts:
        accounts.add(name, role, password)
    print(f"added {name} as {role}")
    if made:
        print(f"password: {password}")
    return 0


def set_password(paths: Paths, name: str, *, from_stdin: bool) -> int:
    """Give an account another password; its log-ins end within a minute."""
    password, made = _password(from_stdin=from_stdin)
    with _changed(paths, name, "passwd") as accounts:
        accounts.set_password(name, password)
    print(f"{name} has a new password; its log-ins have ended")
    if made:
        print(f"password: {password}")
    return 0


def disable(paths: Paths, name: str) -> int:
    """Let an account in no more."""
    with _changed(paths, name, "disable") as accounts:
        accounts.disable(name)
    print(f"{name} is disabled; `flower-agent accounts passwd {name}` lets it in again")
    return 0


def log_out(paths: Paths, name: str) -> int:
    """End every log-in of an account, local or a provider's."""
    with _changed(paths, name, "logout") as accounts:
        ended = accounts.log_out(name)
    print(f"{ended} log-ins and browser sessions of {name} have ended")
    return 0


def remove(paths: Paths, name: str) -> int:
    """Remove an account."""
    with _changed(paths, name, "remove") as accounts:
        accounts.remove(name)
    print(f"removed {name}; its runs belong to the admins now")
    return 0


def snippet(paths: Paths) -> int:
    """Print what a data scientist's machine needs, for this federation's Flower version."""
    config = _config(paths)
    print(snippet_text(config), end="")
    return 0


def open_page(paths: Paths) -> int:
    """Print where the gateway is; root sees the first admin's password, once."""
    config = _config(paths)
    print(f"address      {config.url}")
    with contextlib.suppress(OSError, ValueError):
        shown = (paths.proxy / GATEWAY_FILE).read_text(encoding="ascii")
        fingerprint = certificates.fingerprint(shown)
        print(f"certificate  SHA-256 {certificates.format_fingerprint(fingerprint)}")
    first = _directory(paths) / FIRST_PASSWORD_FILE
    with contextlib.suppress(FileNotFoundError):
        password = first.read_text(encoding="utf-8").strip()
        print(f"account      admin\npassword     {password}")
        print("The password is shown this once: keep it. `flower-agent accounts` makes others.")
        first.unlink()
    return 0


def snippet_text(config: GatewayConfig) -> str:
    """Return the text for one band of Flower."""
    address = config.url.partition("://")[2]
    version = flower_versions.parse_version(config.version)
    install = f"pip install flwr=={version}\n"
    ca = 'root-certificates = "ca.crt"\n' if config.ca_pem else ""
    if version.release < flower_versions.CONFIG_TOML_SINCE:
        head = "# Into the app's pyproject.toml:\n"
        table = f'[tool.flwr.federations.{NAME}]\naddress = "{address}"\n{ca}'
        table += "enable-account-auth = true\n"
        login = f"flwr login . {NAME}"
    else:
        head = "# Into ~/.flwr/config.toml, with the absolute path of ca.crt:\n"
        table = f'[superlink.{NAME}]\naddress = "{address}"\n{ca}'
        login = f"flwr login {NAME}"
    file = ""
    if config.ca_pem:
        file = (
            "# Into ca.crt. A certificate that every system trusts needs neither this file nor "
            f"the line above:\n{config.ca_pem.decode().strip()}\n\n"
        )
    commands = f"{install}{login}\nflwr run . {NAME} --stream\n"
    return f"{head}{table}\n{file}# Then:\n{commands}"


def _row(account: Account) -> dict[str, object]:
    created = datetime.datetime.fromtimestamp(account.created, datetime.UTC)
    row = dataclasses.asdict(account)
    return {**row, "created": created.isoformat(timespec="seconds")}


def _config(paths: Paths) -> GatewayConfig:
    file = paths.gateway / CONFIG_FILE
    if not file.exists():
        raise AgentError("account.no_gateway", "This VM has no gateway", _OFF)
    return read_config(file)


def _directory(paths: Paths) -> pathlib.Path:
    return paths.state / "gateway"


@contextlib.contextmanager
def _opened(paths: Paths) -> Iterator[Accounts]:
    """Give the accounts, opened as the gateway's user: SQLite's own files then are that user's."""
    directory = _directory(paths)
    if not directory.is_dir():
        raise AgentError("account.no_gateway", f"There is no {directory}", _OFF)
    owner = directory.stat()
    root = os.geteuid() == 0 and owner.st_uid != 0
    if root:
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
    try:
        with contextlib.closing(Database(directory / DATABASE_FILE)) as database:
            yield Accounts(database)
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)


@contextlib.contextmanager
def _changed(paths: Paths, name: str, what: str) -> Iterator[Accounts]:
    """Give the accounts for one change, which the record keeps."""
    entry = Entry(what=Event.ACCOUNT_CHANGED, name=name, message=what)
    with recording.attempted(paths, entry), _opened(paths) as accounts:
        yield accounts


def _password(*, from_stdin: bool) -> tuple[str, bool]:
    """Return a password and whether it was made here."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\n"), False
    if not sys.stdin.isatty():
        return made_password(), True
    first = getpass.getpass("Password (empty: make one): ")
    if not first:
        return made_password(), True
    if getpass.getpass("Again: ") != first:
        raise AgentError("account.invalid", "The two passwords differ")
    return first, False
