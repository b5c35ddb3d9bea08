"""``doctor``'s verdict for each check, with its remedy.

The verdict on a firewall looks for the port in the tool's list and evaluates no rule: sets, marks
and senders decide, too.
"""

import dataclasses
import datetime
import enum
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flower_agent.host import firewall
from flower_agent.host.network import Interface
from flower_agent.model import status
from flower_agent.model.address import Address
from flower_agent.model.error_codes import CATALOGUE
from flower_agent.model.errors import Finding, Severity, warning
from flower_agent.reporting import status_text

MIB, GIB = 1 << 20, 1 << 30
STATE_ROOM = 64 * MIB
"""The database and its copies grow below /var/lib/flower-agent."""

DOCKER_ROOM = 512 * MIB
IMAGES_ROOM = 3 * GIB
"""Disk space for Flower's images during pull and unpacking."""

MEMORY = 256 * MIB
SKEW_S = 5.0
"""Flower refuses a node whose clock is further ahead of its SuperLink's."""


class Verdict(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    BAD = "bad"
    SKIPPED = "skipped"


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    detail: str
    finding: Finding | None = None
    """What is wrong, with its remedy."""


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """The free space of a file system for a root daemon."""

    path: str
    free_bytes: int
    total_bytes: int
    free_files: int | None = None
    """Inodes; None where the file system has no limit."""


def well(name: str, detail: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name, Verdict.OK, detail)


def skipped(name: str, why: str) -> Check:
    """Return a check that was not made."""
    return Check(name, Verdict.SKIPPED, why)


def found(name: str, finding: Finding) -> Check:
    """Return a check that found something."""
    wrong = finding.severity is Severity.ERROR
    return Check(name, Verdict.BAD if wrong else Verdict.WARNING, finding.message, finding)


def mild(name: str, finding: Finding) -> Check:
    """Return a check whose finding does no harm now."""
    return found(name, warning(finding.code, finding.message, finding.hint))


def agent(
    document: dict[str, Any] | None,
    *,
    running: bool,
    now: datetime.datetime,
    being_started: bool = False,
) -> Check:
    """Judge the agent by its status, than which nothing here may be better."""
    told = status_text.headline(document, running=running, now=now, being_started=being_started)
    if not running and being_started:
        return well("agent", told)
    if not running:
        return mild("agent", Finding("agent.stopped", told))
    state = status.exit_code(document, running=running, now=now)
    if document is None or state == status.UNKNOWN:
        return found("agent", Finding("agent.silent", told))
    error = document.get("error")
    if error is None:
        return well("agent", told)
    cause = _told(error, f"{told}: {error['message']}")
    stuck = state in (status.EXIT_CODES["failed"], status.EXIT_CODES["degraded"])
    return found("agent", cause) if stuck else mild("agent", cause)


def _told(error: dict[str, Any], message: str) -> Finding:
    """Return a finding out of the status file; another version may know other codes."""
    code = error["code"] if error["code"] in CATALOGUE else "agent.silent"
    more = "" if code == error["code"] else f" ({error['code']})"
    return Finding(code, message + more, error["hint"])


def disk(room: Room, want_bytes: int) -> Check:
    """Judge the free space of a file system."""
    name = "disk"
    shown = f"{room.path} has {_size(room.free_bytes)} left of {_size(room.total_bytes)}"
    if room.free_files == 0:
        return found(name, Finding("disk.low", f"{room.path} has no inode left"))
    if room.free_bytes < want_bytes:
        return found(name, Finding("disk.low", f"{shown}, {_size(want_bytes)} are needed"))
    return well(name, shown)


def memory(available_bytes: int, total_bytes: int) -> Check:
    """Judge the memory that is free without swapping (``MemAvailable``)."""
    shown = f"{_size(available_bytes)} of {_size(total_bytes)} free"
    if available_bytes < MEMORY:
        return found("memory", warning("memory.low", f"{shown}, {_size(MEMORY)} are needed"))
    return well("memory", shown)


def clock(skew_s: float | None, *, synchronized: bool | None) -> Check:
    """Judge the clock by OneGate's, and by what the kernel says of its synchronization."""
    if skew_s is not None and abs(skew_s) > SKEW_S:
        side = "ahead of" if skew_s > 0 else "behind"
        message = f"this VM's clock is {abs(skew_s):.0f} s {side} OneGate's"
        return found("clock", Finding("clock.skew", message))
    shown = "is not compared with OneGate's" if skew_s is None else "agrees with OneGate's"
    if synchronized is False and skew_s is not None:
        return well("clock", f"{shown}; nothing synchronizes it")
    if synchronized is False:
        message = f"nothing synchronizes the clock, which {shown}"
        hint = "Start chrony or systemd-timesyncd: timedatectl"
        return found("clock", warning("clock.skew", message, hint))
    return well("clock", f"{shown}{', synchronized' if synchronized else ''}")


def docker(version: str, *, live_restore: bool, proxy: str = "") -> Check:
    """Judge how the Engine is set up."""
    by = f"; pulls by the proxy {proxy}" if proxy else ""
    if not live_restore:
        message = f"Docker {version} answers; a restart of it ends the containers{by}"
        return found("docker", warning("docker.live_restore", message))
    return well("docker", f"{version} answers{by}")


def mtus(nics: Sequence[Interface], told: Iterable[tuple[str, Interface, int]]) -> Iterator[Check]:
    """Judge the largest packets that the NICs send by those that the networks carry.

    `nics` are all that other machines see; `told` is what the context says (`network.mtus`).
    """
    wrong = [(name, nic, wanted) for name, nic, wanted in told if nic.mtu != wanted]
    for name, nic, wanted in wrong:
        message = f"{nic.name} sends packets of {nic.mtu} bytes, {name}_MTU is {wanted}"
        fix = f"ip link set {nic.name} mtu {wanted}"
        hint = f"{fix}; or correct MTU of the virtual network, then onevm updateconf."
        finding = Finding("nic.mtu", message, hint)
        yield found("mtu", finding) if nic.mtu > wanted else mild("mtu", finding)
    if not wrong:
        shown = ", ".join(f"{nic.name} {nic.mtu}" for nic in nics if nic.mtu)
        yield well("mtu", shown or "the kernel reports none")


def exit_code(checks: Iterable[Check]) -> int:
    """Return 1 when something is wrong, 0 when nothing is or only a warning."""
    return int(any(check.verdict is Verdict.BAD for check in checks))


def document(checks: Iterable[Check], now: datetime.datetime) -> dict[str, Any]:
    """Return the JSON of ``doctor --json``."""
    rows = list(checks)
    return {
        "schema": 1,
        "at": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "ok": not exit_code(rows),
        "checks": [
            {
                "name": check.name,
                "verdict": check.verdict.value,
                "detail": check.detail,
                "code": check.finding.code if check.finding else None,
                "hint": check.finding.hint if check.finding else None,
            }
            for check in rows
        ],
    }


def render(checks: Iterable[Check], *, color: bool = False) -> str:
    """Return the checks as text, the answer first, each trouble with its remedy."""
    lines = list(_lines(list(checks)))
    plain = ["".join(c if c.isprintable() else "?" for c in line) for line in lines]
    return "\n".join(map(status_text.paint, plain) if color else plain)


def _lines(checks: list[Check]) -> Iterator[str]:
    bad = [check.name for check in checks if check.verdict is Verdict.BAD]
    mild = [check.name for check in checks if check.verdict is Verdict.WARNING]
    if bad:
        yield f"trouble: {', '.join(dict.fromkeys(bad))}"
    elif mild:
        yield f"works, with warnings: {', '.join(dict.fromkeys(mild))}"
    else:
        yield "no problem found"
    yield ""
    for check in checks:
        code = f"{check.finding.code}: " if check.finding else ""
        yield from status_text.row(check.name, check.verdict, f"{code}{check.detail}")
        if check.finding:
            yield from status_text.column(f"fix: {check.finding.hint}")


def _size(count: int) -> str:
    """Return a size in the unit that says enough."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count // MIB} MiB"


NAME = "firewall"
FLEET_PORT = 9092
"""The port of the package's firewalld service flower-fleet."""

_PORTS = re.compile(r"([0-9]{1,5})(?:[-:]([0-9]{1,5}))?")


def judge(outputs: Mapping[str, str], listens: Address) -> Check:
    """Judge the outputs of `firewall.ask_tools`, of the firewall that is in charge."""
    lines = {name: [line.strip() for line in text.splitlines()] for name, text in outputs.items()}
    if "firewalld" in lines:
        return _firewalld(lines["firewalld"], listens)
    if "Status: active" in lines.get("ufw", ()):
        return _ufw(lines["ufw"], listens)
    if "nftables" in lines:
        return _nftables(lines["nftables"], listens)
    return skipped(NAME, "no firewall tool answers; root can use firewall-cmd, ufw, nft")


def _firewalld(lines: list[str], listens: Address) -> Check:
    zone = f"firewalld, zone {lines[0].partition(' ')[0]}" if lines else "firewalld"
    for line in lines:
        key, _, rest = line.partition(":")
        service = listens.port == FLEET_PORT and "flower-fleet" in line
        rule = line.startswith("rule ") and line.endswith(" accept")
        if (
            line == "target: ACCEPT"
            or (key == "services" and service)
            or (key == "ports" and _among(rest.split(), listens.port))
            or (rule and (service or f'port port="{listens.port}"' in line))
        ):
            return well(NAME, f"{zone}: {line}")
    what = f"no port, service or rule contains TCP port {listens.port}"
    return _closed("firewalld", f"{zone}: {what}", listens)


def _ufw(lines: list[str], listens: Address) -> Check:
    for line in lines:
        target, allows, _ = line.partition(" ALLOW")
        wide = target.startswith("Anywhere") or _among(target.split(), listens.port)
        if "allow (incoming)" in line or (allows and wide):
            return well(NAME, f"ufw: {' '.join(line.split())}")
    return _closed("ufw", f"ufw is active and does not allow TCP port {listens.port}", listens)


def _nftables(lines: list[str], listens: Address) -> Check:
    policies = dict(_policies(lines))
    drops = ", ".join(chain for chain, policy in policies.items() if policy == "drop")
    if not drops:
        shown = ", ".join(policies)
        text = (
            f"policy accept in {shown}; its rules were not checked" if shown else "no input chain"
        )
        return well(NAME, f"nftables: {text}")
    for line in lines:
        _, named, ports = line.partition("tcp dport ")
        if named and line.endswith("accept") and _among(re.split(r"[ ,]+", ports), listens.port):
            return well(NAME, f"nftables: policy drop in {drops}, but: {line}")
    what = f"policy drop in {drops}, and no rule accepts TCP port {listens.port} by its number"
    return _closed("nftables", f"nftables: {what}", listens)


def _policies(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each chain at the input hook, with its table, and its policy."""
    table = chain = ""
    for line in lines:
        words = line.split()
        if words[:1] == ["table"]:
            table = " ".join(words[1:3])
        elif words[:1] == ["chain"]:
            chain = words[1]
        elif "hook input" in line:
            yield f"{table} {chain}", "drop" if "policy drop" in line else "accept"


def _among(words: Iterable[str], port: int) -> bool:
    """Return whether TCP ports as the tools write them hold `port`: 22, 80,443/tcp, 9000-9100."""
    for word in words:
        numbers, _, protocol = word.partition("/")
        for each in numbers.split(",") if protocol in ("", "tcp") else ():
            ends = _PORTS.fullmatch(each)
            if ends and int(ends[1]) <= port <= int(ends[2] or ends[1]):
                return True
    return False


def _closed(name: str, what: str, listens: Address) -> Check:
    return found(NAME, warning("firewall.drops", what, firewall.remedy(name, listens)))
