"""The distributions' own judges find nothing but what is overridden with a reason."""

import subprocess

from conftest import ROOT

CONFIG = ROOT / "contrib" / "package" / "rpmlint.toml"
OVERRIDES = ROOT / "contrib" / "package" / "installed" / "lintian-overrides"


def test_lintian_finds_nothing(program, deb):
    command = [program("lintian"), "--fail-on=error,warning", "--suppress-tags=", "--allow-root"]
    command = [word for word in command if word != "--suppress-tags="]
    done = subprocess.run([*command, deb], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_override_is_used(program, deb):
    command = [program("lintian"), "--allow-root", "--tags=unused-override,mismatched-override"]
    done = subprocess.run([*command, deb], check=False, capture_output=True, text=True)
    assert done.stdout == ""


def test_rpmlint_finds_nothing(program, rpm):
    command = [program("rpmlint"), f"--config={CONFIG}", rpm]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "0 errors, 0 warnings" in done.stdout, done.stdout


def test_every_exception_has_a_reason_above_it():
    for text, sign in ((OVERRIDES.read_text(), "flower-agent:"), (CONFIG.read_text(), '  "')):
        reasoned = False
        for line in text.splitlines():
            reasoned = line.lstrip().startswith("#") or (reasoned and line.startswith(sign))
            assert reasoned or line in {"Filters = [", "]"}, line
