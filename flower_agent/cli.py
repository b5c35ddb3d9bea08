"""The command line.

``status`` must be quick and work for any user, so nothing outside the standard library is imported
here; each command imports what it needs.

Exit codes of ``status``: 0 ready, 1 failed, 2 degraded, 3 agent not running, 4 unknown or stale,
5 starting, 64 usage, 124 `--wait` timed out.
"""

import argparse
import contextlib
import datetime
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from flower_agent.commands import status
from flower_agent.model.errors import AgentError
from flower_agent.paths import Paths

USAGE = 64


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = parser().parse_args(arguments)
    if not options.name and options.run is not _run:  # an agent's root contains its name
        options.name = status.agent_name(_paths(options))
    try:
        return int(options.run(options))
    except AgentError as error:
        print(f"{error.finding}\n  fix: {error.finding.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `flower-agent logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from flower_agent.commands import version

        print(version.text())
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command; the man page and the completions are made from it."""
    made = _Parser(prog="flower-agent", description="Turns this VM into its Flower role.")
    made.add_argument("--version", action=_Version, nargs=0, help="version, package and commit")
    _common(made, os.environ.get("FLOWER_AGENT_ROOT", "/"), os.environ.get("FLOWER_AGENT_NAME", ""))
    _add_commands(made.add_subparsers(required=True, metavar="COMMAND"))
    return made


def _add_commands(commands: Any) -> None:
    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        _common(made, argparse.SUPPRESS, argparse.SUPPRESS)
        return made

    command("run", _run, "run the daemon")
    made = command("status", _status, "show what the VM does and why")
    status.add_options(made, _duration)
    made = command("check", _check, "check a context or a template without a VM")
    kinds = made.add_mutually_exclusive_group()
    kinds.add_argument("--context", type=pathlib.Path, help="a context.sh (default: this VM's)")
    kinds.add_argument("--template", type=pathlib.Path, help="a VM or OneFlow template instead")
    made.add_argument(
        "--vm-template", type=_numbered, action="append", default=[], metavar="ID=FILE",
        help="a VM template that the service template names",
    )  # fmt: skip
    made.add_argument("--config", type=pathlib.Path, help="a config.yaml (default: this image's)")
    made.add_argument("--json", action="store_true", help="findings as JSON")
    made = command("plan", _plan, "show what `run` would do now; change nothing")
    made.add_argument("--context", type=pathlib.Path, help="a context.sh (default: this VM's)")
    made.add_argument("--json", action="store_true", help="as JSON")
    made = command("doctor", _doctor, "check everything that the agent depends on")
    made.add_argument("--json", action="store_true", help="as JSON")
    _add_logs(command("logs", _logs, "show the lines of the containers and the agent, by time"))
    made = command("support", _support, "make an archive for a bug report, without secrets")
    made.add_argument(
        "-o", "--output", type=pathlib.Path, help="the archive (default: a new name here)"
    )
    _add_tls(command("tls", _tls_show, "manage certificates: show, renew, trust"))
    _add_nodes(command("nodes", _nodes_list, "manage the SuperNodes of this SuperLink"))
    _add_accounts(command("accounts", _accounts_list, "manage the people who use this federation"))
    command("open", _open, "show the address of this federation's gateway")
    _add_bake(command("bake", _bake, "for image builders: pull or build images, pin their digests"))
    _add_submit(command("submit", _submit, "submit a Flower app to this SuperLink and follow it"))
    _add_runs(command("runs", _runs, "manage runs: list, show, log, fetch, report, delete"))
    _add_audit(command("audit", _audit, "show the record of who did what, or verify it"))
    made = command("stop", _stop, "stop a run")
    made.add_argument("run_id", metavar="RUN", type=_id, help="the run's id, as `runs` shows it")
    command("down", _down, "stop the agent and remove its containers")
    made = command("reset", _reset, "stop as `down`, and remove all state (CA, keys, database)")
    made.add_argument("--caches", action="store_true", help="remove only the apps' download caches")
    made.add_argument("--yes", action="store_true", help="do not ask")


def _add_logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "container", nargs="?", help="superlink, supernode, superexec, agent (default: all)"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="wait for new lines")
    parser.add_argument(
        "-n", "--lines", type=int, default=100, help="last lines of each (default: 100)"
    )
    parser.add_argument("--json", action="store_true", help="one object per line: at, from, text")
    parser.add_argument(
        "--since", type=_since, metavar="TIME", help="only lines since 10m, 2h or an RFC 3339 time"
    )
    parser.add_argument(
        "--grep", default="", metavar="TEXT", help="only lines with TEXT, upper or lower case"
    )
    parser.add_argument(
        "--polls", action="store_true", help="include lines about the agent's own Control API calls"
    )
    parser.add_argument(
        "--events", type=pathlib.Path, help="file with the agent's lines (default: its journal)"
    )


def _add_tls(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(required=True, metavar="show|renew|trust")
    kinds.add_parser(
        "show", help="show the certificates in use and their expiry dates"
    ).set_defaults(run=_tls_show)
    kinds.add_parser("renew", help="issue a new certificate now").set_defaults(run=_tls_renew)
    made = kinds.add_parser("trust", help="trust another CA than the pinned one")
    made.add_argument(
        "fingerprint", type=_fingerprint, metavar="SHA256", help="fingerprint of that CA"
    )
    made.set_defaults(run=_tls_trust)
    for kind in kinds.choices.values():
        _common(kind, argparse.SUPPRESS, argparse.SUPPRESS)


def _add_submit(parser: argparse.ArgumentParser) -> None:
    text = (
        "a directory, or a git URL as in CUSTOM_APP_REPO (default: the context's app with its FL_…)"
    )
    parser.add_argument("app", nargs="?", metavar="APP", help=text)
    parser.add_argument(
        "-c", "--config", action="append", default=[], type=_pair, metavar="KEY=VALUE",
        help="set a key of the run's config; may be repeated",
    )  # fmt: skip
    parser.add_argument("--detach", action="store_true", help="do not wait for the end of the run")


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")
    kinds = parser.add_subparsers(metavar="show|log|fetch|report|delete")
    made = kinds.add_parser("show", help="show config, rounds, failures and outputs of one run")
    made.add_argument("run_id", metavar="RUN", type=_id, help="the run's id, as `runs` shows it")
    made.add_argument("--json", action="store_true", help="as JSON")
    made.set_defaults(run=_runs_show)
    made = kinds.add_parser("log", help="show the output of a run's ServerApp")
    made.add_argument("run_id", metavar="RUN", type=_id, help="the run's id, as `runs` shows it")
    made.add_argument(
        "-f", "--follow", action="store_true", help="wait for new lines until the run ends"
    )
    made.set_defaults(run=_runs_log)
    made = kinds.add_parser("fetch", help="copy a run's outputs: its model, its plots")
    made.add_argument("run_id", metavar="RUN", type=_id, help="the run's id, as `runs` shows it")
    made.add_argument("names", nargs="*", metavar="NAME", help="files of the run (default: all)")
    made.add_argument(
        "-o",
        "--output",
        type=pathlib.Path,
        metavar="DIR",
        help="target directory (default: ./run-RUN)",
    )
    made.set_defaults(run=_runs_fetch)
    made = kinds.add_parser("report", help="write one run with its plots as one HTML file")
    made.add_argument("run_id", metavar="RUN", type=_id, help="the run's id, as `runs` shows it")
    made.add_argument(
        "-o",
        "--output",
        type=pathlib.Path,
        metavar="FILE",
        help="the file (default: ./run-RUN.html)",
    )
    made.set_defaults(run=_runs_report)
    made = kinds.add_parser("delete", help="remove outputs, log and metrics of ended runs")
    made.add_argument(
        "run_ids", nargs="+", metavar="RUN", type=_id, help="run ids, as `runs` shows them"
    )
    made.set_defaults(run=_runs_delete)
    for kind in kinds.choices.values():
        _common(kind, argparse.SUPPRESS, argparse.SUPPRESS)


def _add_audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since",
        type=_since,
        metavar="TIME",
        help="only entries since 10m, 2h or RFC 3339",
    )
    parser.add_argument("--json", action="store_true", help="the lines of the record as they are")
    parser.add_argument(
        "--verify", action="store_true", help="name the first line that was removed, changed or cut"
    )
    parser.add_argument(
        "--head", type=_fingerprint, metavar="HASH",
        help="with --verify: a hash from the journal that the record must have",
    )  # fmt: skip


def _add_nodes(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(json=False)
    kinds = parser.add_subparsers(metavar="list|register|unregister")
    made = kinds.add_parser("list", help="list all SuperNodes with their keys")
    made.add_argument("--json", action="store_true", help="as JSON")
    made = kinds.add_parser("register", help="allow a SuperNode outside the service to connect")
    made.add_argument(
        "key", help="the node's public key, 'ecdsa-sha2-nistp384 AAAA…', or a file with it"
    )
    made.set_defaults(run=_nodes_register)
    made = kinds.add_parser("unregister", help="remove a SuperNode; its key can never return")
    made.add_argument("node", type=_id, help="the node's id, as `list` shows it")
    made.set_defaults(run=_nodes_unregister)
    for kind in kinds.choices.values():
        _common(kind, argparse.SUPPRESS, argparse.SUPPRESS)


def _add_accounts(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(json=False)
    kinds = parser.add_subparsers(metavar="list|add|passwd|disable|logout|remove|snippet")
    made = kinds.add_parser("list", help="list the local accounts")
    made.add_argument("--json", action="store_true", help="as JSON")
    add = kinds.add_parser("add", help="add an account")
    add.add_argument(
        "--role", required=True, choices=["viewer", "submitter", "admin"],
        help="viewer reads; submitter also runs apps and pulls their outputs; admin does all",
    )  # fmt: skip
    add.set_defaults(run=_accounts_add)
    passwd = kinds.add_parser("passwd", help="set a new password, which also enables an account")
    passwd.set_defaults(run=_accounts_passwd)
    disable = kinds.add_parser("disable", help="let an account in no more")
    disable.set_defaults(run=_accounts_disable)
    remove = kinds.add_parser("remove", help="remove an account")
    remove.set_defaults(run=_accounts_remove)
    logout = kinds.add_parser("logout", help="end all log-ins of an account")
    logout.set_defaults(run=_accounts_logout)
    for made in (add, passwd, disable, logout, remove):
        made.add_argument("name", metavar="NAME", help="the account's name")
    for made in (add, passwd):
        made.add_argument(
            "--password-stdin", action="store_true",
            help="read the password from standard input (default: ask, or make one)",
        )  # fmt: skip
    made = kinds.add_parser("snippet", help="print what a data scientist's machine needs")
    made.set_defaults(run=_accounts_snippet)
    for kind in kinds.choices.values():
        _common(kind, argparse.SUPPRESS, argparse.SUPPRESS)


def _numbered(text: str) -> tuple[str, pathlib.Path]:
    number, _, path = text.partition("=")
    if not number.isdigit() or not path:
        raise argparse.ArgumentTypeError("want NUMBER=FILE")
    return number, pathlib.Path(path)


def _add_bake(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--flower", default="", metavar="VERSION", help="(default: flower_version, else 1.25.0)"
    )
    parser.add_argument(
        "--framework",
        nargs="+",
        action="extend",
        default=[],
        choices=("sklearn", "pytorch", "pytorch-cuda", "tensorflow", "tensorflow-cuda"),
        help="also build the SuperExec image of that framework (default: ml_framework)",
    )
    parser.add_argument(
        "--app",
        action="append",
        default=[],
        metavar="URL",
        help="an app as in CUSTOM_APP_REPO: add its dependencies",
    )
    parser.add_argument(
        "--index-url", default="", metavar="URL", help="package index (default: PyPI)"
    )
    parser.add_argument(
        "--wheels", default="", metavar="DIR", help="directory with wheels to use first"
    )


def _id(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) >= 1 << 64:
        raise argparse.ArgumentTypeError("want the id of a node or a run: a number")
    return text


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError("want KEY=VALUE")
    return key.strip(), value.strip()


def _fingerprint(text: str) -> str:
    plain = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise argparse.ArgumentTypeError("want a SHA-256: 64 hex digits, with or without colons")
    return plain


def _common(parser: argparse.ArgumentParser, root: str, name: str) -> None:
    parser.add_argument(
        "--root", default=root, help="directory of all the agent's files (default: /)"
    )
    parser.add_argument("--name", default=name, type=_name, help="prefix of container names")


def _name(text: str) -> str:
    if text and not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,39}", text):
        raise argparse.ArgumentTypeError("want lower-case letters, digits, '_', '.', '-'")
    return text


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|)", text)
    if match is None:
        raise argparse.ArgumentTypeError("want a duration such as 90s, 10m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _since(text: str) -> datetime.datetime:
    """Return the time of RFC 3339 text, or of a duration before now."""
    with contextlib.suppress(argparse.ArgumentTypeError, OverflowError):
        ago = datetime.timedelta(seconds=_duration(text))
        return datetime.datetime.now(datetime.UTC) - ago
    with contextlib.suppress(ValueError):
        found = datetime.datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found.astimezone(datetime.UTC)
    raise argparse.ArgumentTypeError("want 10m, 2h or RFC 3339, such as 2026-03-01T12:00:00Z")


def _paths(options: argparse.Namespace) -> Paths:
    return Paths(pathlib.Path(options.root).absolute())


def _run(options: argparse.Namespace) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core writes to stderr by itself
    from flower_agent.agent import daemon

    return daemon.run(_paths(options), options.name)


def _status(options: argparse.Namespace) -> int:
    return status.run(_paths(options), options)


def _check(options: argparse.Namespace) -> int:
    from flower_agent.commands import check, check_template

    if options.template is not None:
        files = (options.template, options.config, options.vm_template)
        return check_template.run(*files, as_json=options.json)
    return check.run(_paths(options), options.context, options.config, as_json=options.json)


def _plan(options: argparse.Namespace) -> int:
    from flower_agent.agent import daemon

    return daemon.plan(_paths(options), options.name, options.context, as_json=options.json)


def _doctor(options: argparse.Namespace) -> int:
    from flower_agent.commands import doctor

    return doctor.run(_paths(options), options.name, as_json=options.json)


def _logs(options: argparse.Namespace) -> int:
    from flower_agent.commands import logs

    return logs.run(_paths(options), options)


def _support(options: argparse.Namespace) -> int:
    from flower_agent.commands import support

    return support.run(_paths(options), options.name, options.output)


def _tls_show(options: argparse.Namespace) -> int:
    from flower_agent.commands import tls

    return tls.show(_paths(options))


def _tls_renew(options: argparse.Namespace) -> int:
    from flower_agent.commands import tls

    return tls.renew(_paths(options))


def _tls_trust(options: argparse.Namespace) -> int:
    from flower_agent.commands import tls

    return tls.trust(_paths(options), options.fingerprint)


def _accounts_list(options: argparse.Namespace) -> int:
    from flower_agent.commands import accounts

    return accounts.show(_paths(options), as_json=options.json)


def _accounts_add(options: argparse.Namespace) -> int:
    from flower_agent.commands import accounts
    from flower_agent.config.account_roles import AccountRole

    role = AccountRole(options.role)
    return accounts.add(_paths(options), options.name, role, from_stdin=options.password_stdin)


def _accounts_passwd(options: argparse.Namespace) -> int:
    from flower_agent.commands import accounts

    return accounts.set_password(_paths(options), options.name, from_stdin=options.password_stdin)


def _accounts_disable(options: argparse.Namespace) -> int:
    from flower_agent.commands import accounts

    return accounts.disable(_paths(options), options.name)


def _accounts_logout(options: argparse.Namespace) -> int:
    from flower_agent.commands import accounts

    return accounts.log_out(_paths(options), options.name)


def _accounts_remove(options: argparse.Namespace) -> int:
    from flower_agent.commands import accounts

    return accounts.remove(_paths(options), options.name)


def _accounts_snippet(options: argparse.Namespace) -> int:
    from flower_agent.commands import accounts

    return accounts.snippet(_paths(options))


def _open(options: argparse.Namespace) -> int:
    from flower_agent.commands import accounts

    return accounts.open_page(_paths(options))


def _nodes_list(options: argparse.Namespace) -> int:
    from flower_agent.commands import nodes

    return nodes.show(_paths(options), as_json=options.json)


def _nodes_register(options: argparse.Namespace) -> int:
    from flower_agent.commands import nodes

    return nodes.register(_paths(options), options.key)


def _nodes_unregister(options: argparse.Namespace) -> int:
    from flower_agent.commands import nodes

    return nodes.unregister(_paths(options), options.node)


def _submit(options: argparse.Namespace) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from flower_agent.commands import submit

    return submit.submit(
        _paths(options), options.name, options.app, options.config, detach=options.detach
    )


def _runs(options: argparse.Namespace) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from flower_agent.commands import runs

    return runs.show_all(_paths(options), as_json=options.json)


def _runs_show(options: argparse.Namespace) -> int:
    from flower_agent.commands import runs

    return runs.show(_paths(options), options.run_id, as_json=options.json)


def _runs_log(options: argparse.Namespace) -> int:
    from flower_agent.commands import runs

    return runs.log(_paths(options), options.run_id, follow=options.follow)


def _runs_fetch(options: argparse.Namespace) -> int:
    from flower_agent.commands import runs

    return runs.fetch(_paths(options), options.run_id, options.names, options.output)


def _runs_report(options: argparse.Namespace) -> int:
    from flower_agent.commands import report

    return report.write(_paths(options), options.run_id, options.output)


def _runs_delete(options: argparse.Namespace) -> int:
    from flower_agent.commands import runs

    return runs.delete(_paths(options), options.run_ids)


def _stop(options: argparse.Namespace) -> int:
    from flower_agent.commands import submit

    return submit.stop(_paths(options), options.run_id)


def _audit(options: argparse.Namespace) -> int:
    from flower_agent.commands import audit

    if options.verify or options.head:
        return audit.verify(_paths(options), options.head or "")
    return audit.show(_paths(options), options.since, as_json=options.json)


def _bake(options: argparse.Namespace) -> int:
    from flower_agent.commands import bake

    where = bake.source(options.index_url, options.wheels, dict(os.environ))
    return bake.run(_paths(options), options.flower, options.framework, where, options.app)


def _down(options: argparse.Namespace) -> int:
    from flower_agent.commands import down

    return down.down(_paths(options), options.name)


def _reset(options: argparse.Namespace) -> int:
    from flower_agent.commands import down

    if options.caches:
        return down.clear_caches(_paths(options))
    if not options.yes and sys.stdin.isatty():
        answer = input(
            "This removes the CA, so every node must trust a new CA, and all runs. Type yes: "
        )
        if answer.strip() != "yes":
            return 1
    elif not options.yes:
        print(
            "reset removes the CA, the database and all runs; confirm with --yes", file=sys.stderr
        )
        return USAGE
    return down.reset(_paths(options), options.name)
