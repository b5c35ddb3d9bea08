"""The man page and the shell completions, made from the command line's own parser.

argparse keeps what a parser was told in `_actions`; there is no public way to read it back.
Man pages: man-pages(7) and groff_man(7). Completions: bash's `complete -F`, zsh's `_arguments`
(zshcompsys(1)), fish's `complete`.
"""

import argparse
import dataclasses
import datetime
import re
import shlex
from collections.abc import Iterator

from flower_agent import cli
from flower_agent.model import lifecycle, status

PROGRAM = "flower-agent"


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One flag."""

    flags: tuple[str, ...]
    value: str
    """The name of its value; empty when it takes none."""

    help: str


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """One command, or one command of a command (``tls renew``)."""

    words: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    arguments: tuple[str, ...]
    """Names of what stands without a flag; in brackets what may be left out."""


def commands() -> tuple[Command, ...]:
    """Return the program itself, then all commands in the order of its help."""
    return tuple(_walk((), "Turns this VM into its Flower role.", cli.parser()))


def _walk(words: tuple[str, ...], text: str, parser: argparse.ArgumentParser) -> Iterator[Command]:
    actions = [a for a in parser._actions if a.help is not argparse.SUPPRESS]  # noqa: SLF001
    children = [a for a in actions if isinstance(a, argparse._SubParsersAction)]  # noqa: SLF001
    plain = [a for a in actions if a not in children and not a.option_strings]
    yield Command(
        words,
        text,
        tuple(
            Option(
                tuple(action.option_strings),
                "" if action.nargs == 0 else (action.metavar or action.dest.upper()),
                action.help or "",
            )
            for action in actions
            if action.option_strings
        ),
        tuple(_name(action) for action in plain),
    )
    for child in children:
        helps = {a.dest: a.help or "" for a in child._choices_actions}  # noqa: SLF001
        for name, made in child.choices.items():
            yield from _walk((*words, name), helps[name], made)


def _name(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest.upper())
    return f"[{name}]" if action.nargs == "?" else name


def page(version: str, date: datetime.date, flower: str) -> str:
    """Return flower-agent(8)."""
    everywhere = commands()[0].options
    lines = [
        f'.TH FLOWER\\-AGENT 8 {date} "flower\\-agent {version}" "System administration"',
        ".SH NAME",
        "flower\\-agent \\- Flower federated learning role of an OpenNebula VM",
        ".SH SYNOPSIS",
        ".B flower\\-agent",
        "[\\fIOPTION\\fR]... \\fICOMMAND\\fR",
        ".SH DESCRIPTION",
        "Reads what OpenNebula's contextualization left, decides what this VM is, and keeps its",
        f"Flower containers running. Flower: {flower}.",
        ".SH OPTIONS",
        *_options(everywhere),
        ".SH COMMANDS",
    ]
    common = {option.flags for option in everywhere}
    for command in commands()[1:]:
        own = tuple(o for o in command.options if o.flags not in common)
        head = " ".join(("\\fB" + _roff(" ".join(command.words)) + "\\fR", *command.arguments))
        lines += [".TP", head, _sentence(command.help)]
        if own:
            lines += [".RS", *_options(own), ".RE"]
    lines += [".SH EXIT STATUS", "Of", ".BR status :"]
    for code, meaning in exit_codes():
        lines += [".TP", f".B {code}", _roff(meaning)]
    lines += [".SH FILES"]
    for path, meaning in FILES:
        lines += [".TP", f".I {_roff(path)}", _roff(meaning)]
    lines += [
        ".SH ENVIRONMENT",
        ".TP",
        '.BR FLOWER_AGENT_ROOT ", " FLOWER_AGENT_NAME',
        "Defaults of \\fB\\-\\-root\\fR and \\fB\\-\\-name\\fR.",
        ".SH SEE ALSO",
        ".BR docker (1),",
        ".BR systemctl (1),",
        "and the pages in \\fI/usr/share/doc/flower\\-agent\\fR.",
    ]
    return "\n".join(lines) + "\n"


FILES = (
    ("/etc/flower-agent/config.yaml", "The image builder's defaults."),
    ("/run/one-context/", "The context; read, never written."),
    ("/run/flower-agent/status.json", "The status."),
    ("/var/lib/flower-agent/", "State that survives a reboot: CA, keys, database, training data."),
    ("/var/lib/flower-agent/audit.jsonl", "The record of who did what."),
)


def exit_codes() -> Iterator[tuple[int, str]]:
    """Return each exit code of ``status`` and its meaning."""
    for state in lifecycle.LifeState:
        yield status.EXIT_CODES[state], state.value
    yield status.NOT_RUNNING, "the agent does not run"
    yield status.UNKNOWN, "unknown or stale"
    yield cli.USAGE, "wrong words on the command line"
    yield status.TIMED_OUT, "--wait timed out"


def _options(options: tuple[Option, ...]) -> Iterator[str]:
    for option in options:
        flags = ", ".join(f"\\fB{_roff(flag)}\\fR" for flag in option.flags)
        yield ".TP"
        yield flags + (f" \\fI{_roff(option.value)}\\fR" if option.value else "")
        yield _sentence(option.help)


def _roff(text: str) -> str:
    return re.sub(r"^([.'])", r"\\&\1", text.replace("-", "\\-"))


def _sentence(text: str) -> str:
    return _roff(text[:1].upper() + text[1:]) + "."


def bash() -> str:
    """Return the completion for bash."""
    found = commands()
    cases = "".join(
        f'        "{" ".join(command.words)}") words="{" ".join(words)}" ;;\n'
        for command in found
        for words in [(*_flags(command), *_children(command, found))]
    )
    paths = "|".join(" ".join(c.words) for c in found if c.words)
    return f"""# bash completion of flower-agent
_flower_agent() {{
    local path="" word words=""
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "${{path:+$path }}$word" in
            {paths.replace(" ", chr(92) + " ")}) path="${{path:+$path }}$word" ;;
        esac
    done
    case "$path" in
{cases}    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}")
}}
complete -o default -F _flower_agent {PROGRAM}
"""


def zsh() -> str:
    """Return the completion for zsh."""
    found = commands()
    cases = ""
    for command in found:
        rows = [f"{w}:{h}" for w, h in _children(command, found).items()]
        cases += f"    ({shlex.quote(' '.join(command.words))})\n"
        if rows:
            cases += f"      rows=({' '.join(map(shlex.quote, rows))})\n"
        flags = [f"{flag}:{o.help}" for o in command.options for flag in o.flags]
        cases += f"      flags=({' '.join(map(shlex.quote, flags))}) ;;\n"
    paths = "|".join(shlex.quote(" ".join(c.words)) for c in found if c.words)
    return f"""#compdef {PROGRAM}
local word at=""
local -a rows flags
for word in ${{words[2,CURRENT-1]}}; do
  case "${{at:+$at }}$word" in
    ({paths}) at="${{at:+$at }}$word" ;;
  esac
done
case "$at" in
{cases}esac
(( ${{#rows}} )) && _describe command rows
if [[ $PREFIX == -* ]]; then _describe option flags
elif (( ! ${{#rows}} )); then _files
fi
"""


def fish() -> str:
    """Return the completion for fish."""
    found = commands()
    lines = [f"complete -c {PROGRAM} -f"]
    for command in found:
        chosen = [f"__fish_seen_subcommand_from {word}" for word in command.words]
        children = _children(command, found)
        if children:
            chosen.append(f"not __fish_seen_subcommand_from {' '.join(children)}")
        when = f" -n {shlex.quote('; and '.join(chosen))}" if chosen else ""
        lines += [
            f"complete -c {PROGRAM}{when} -a {word} -d {shlex.quote(text)}"
            for word, text in children.items()
        ]
        for option in command.options:
            flags = " ".join(
                f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                for flag in option.flags
            )
            value = " -r -F" if option.value else ""
            lines.append(
                f"complete -c {PROGRAM}{when} {flags}{value} -d {shlex.quote(option.help)}"
            )
    return "\n".join(dict.fromkeys(lines)) + "\n"


def _flags(command: Command) -> tuple[str, ...]:
    return tuple(flag for option in command.options for flag in option.flags)


def _children(parent: Command, found: tuple[Command, ...]) -> dict[str, str]:
    return {c.words[-1]: c.help for c in found if c.words[:-1] == parent.words and c.words}
