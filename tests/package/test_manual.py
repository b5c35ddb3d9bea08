"""Man page and completions are made from the parser, and are what their readers take."""

import datetime
import subprocess

import manual
import pytest

PAGE = manual.page("1.2.3", datetime.date(2026, 1, 2), "1.23 to 1.42")
COMMANDS = manual.commands()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_the_page_has_every_command_and_option(command):
    assert "\\fB" + " ".join(command.words) in PAGE
    for option in command.options:
        for flag in option.flags:
            assert "\\fB" + flag.replace("-", "\\-") + "\\fR" in PAGE


def test_the_page_is_what_man_shows(program):
    shown = subprocess.run(
        [program("groff"), "-man", "-Tutf8", "-ww", "-P-cbou"],
        input=PAGE, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.stderr == ""
    text = " ".join(shown.stdout.split())
    assert "flower-agent - Flower federated learning role of an OpenNebula VM" in text
    assert "tls trust SHA256 Trust another CA than the pinned one." in text
    assert "124 --wait timed out" in text
    assert "January" in text or "2026-01-02" in text


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", {"status", "check", "logs", "tls", "reset", "--version"}),
        ("sta", {"status"}),
        ("status --w", {"--wait"}),
        ("tls ", {"show", "renew", "trust"}),
        ("tls r", {"renew"}),
        ("--root / logs -", {"-f", "--follow", "-n", "--lines"}),
    ],
)
def test_bash_offers_what_the_parser_takes(words, wanted):
    line = ["flower-agent", *words.split(" ")]
    script = f"""{manual.bash()}
COMP_WORDS=({" ".join(f"'{word}'" for word in line)}); COMP_CWORD={len(line) - 1}
_flower_agent; printf '%s\\n' "${{COMPREPLY[@]}}" """
    shell = ["/bin/bash", "--norc", "-c", script]
    done = subprocess.run(shell, check=True, capture_output=True, text=True)
    offered = set(done.stdout.split())
    assert wanted <= offered
    assert {word for word in offered if not word.startswith(line[-1])} == set()


def test_zsh_takes_its_completion(program):
    done = subprocess.run(
        [program("zsh"), "-fn"], input=manual.zsh(), check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "'renew:issue a new certificate now'" in manual.zsh()


def test_fish_offers_what_the_parser_takes(program, tmp_path):
    (tmp_path / "flower-agent.fish").write_text(manual.fish())
    script = f"source {tmp_path}/flower-agent.fish; complete -C 'flower-agent tls '"
    done = subprocess.run(
        [program("fish"), "--no-config", "-c", script],
        check=True, capture_output=True, text=True, env={"HOME": str(tmp_path)},
    )  # fmt: skip
    assert "renew\tissue a new certificate now" in done.stdout
