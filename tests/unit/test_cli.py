"""The command line without a daemon: quick to import, strict about words."""

import subprocess
import sys
import sysconfig

import pytest

from flower_agent import cli


def test_the_command_line_imports_only_the_standard_library():
    script = "import flower_agent.cli, sys; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; sys.path.insert(0, '.');" + script],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    standard = set(sys.stdlib_module_names) | {"flower_agent", "__main__", "sitecustomize"}
    site = {name for name in done.stdout.split() if name.startswith(("_distutils", "__editable__"))}
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - standard - site == set(), sysconfig.get_paths()["purelib"]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("5", 5)])
def test_a_duration_is_read(text, seconds):
    assert cli._duration(text) == seconds


@pytest.mark.parametrize(
    "words", [[], ["bogus"], ["status", "--timeout", "soon"], ["run", "--name", "-x"]]
)
def test_wrong_words_exit_64(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 64
    assert "usage:" in capsys.readouterr().err
