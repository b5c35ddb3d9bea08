"""What stands in a VM's files becomes variables, defaults and findings, never an exception."""

import os
import pathlib
import shutil
import time

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from flower_agent.config import context, sources
from flower_agent.config.sources import OneGateAccess
from flower_agent.model.secret import Secret
from flower_agent.paths import Paths

DATA = pathlib.Path(__file__).parents[1] / "data"
TOKEN = "yVBFyedILu4FNbAaBxyyZg=="
ENDPOINT = "http://169.254.16.9:5030"
HEAD = f'export TOKENTXT="{TOKEN}"\nexport VMID="29"\nexport ONEGATE_ENDPOINT="{ENDPOINT}"\n'


@pytest.fixture
def paths(tmp_path):
    return places(tmp_path)


def places(root):
    paths = Paths(root)
    paths.context.mkdir(parents=True)
    paths.config.parent.mkdir(parents=True)
    return paths


def stage(paths, name, content):
    data = content if isinstance(content, bytes) else content.encode()
    (paths.context / f"context.sh.{name}").write_bytes(data)


def codes(read):
    return [found.code for found in read.findings]


# The context's stages


def test_the_newest_stage_counts(paths):
    for name in ("local", "online", "network"):
        stage(paths, name, f"A='{name}'\n")
        assert sources.read(paths).variables == {"A": name}


def test_a_real_context_is_read(paths):
    shutil.copy(DATA / "context.sh", paths.context / "context.sh.local")
    read = sources.read(paths)
    assert read.variables["ETH0_IP"] == "172.20.0.44"
    assert read.findings == ()


def test_without_a_context_that_is_the_finding(paths):
    read = sources.read(paths)
    assert read.variables is None
    assert codes(read) == ["context.missing"]
    assert str(paths.context) in read.findings[0].message


def test_without_any_directory_nothing_raises(tmp_path):
    paths = Paths(tmp_path / "nowhere")
    assert codes(sources.read(paths)) == ["context.missing"]
    assert sources.stamp(paths) == ()


def test_an_empty_context_is_one_without_variables(paths):
    stage(paths, "network", "")
    read = sources.read(paths)
    assert read.variables == {}
    assert read.findings == ()


def test_a_context_of_bytes_is_malformed(paths):
    stage(paths, "network", bytes(range(256)))
    stage(paths, "local", "A='1'\n")
    read = sources.read(paths)
    assert read.variables is None
    assert codes(read) == ["context.malformed"]


def test_a_context_that_is_a_directory_is_malformed(paths):
    (paths.context / "context.sh.network").mkdir()
    assert codes(sources.read(paths)) == ["context.malformed"]


def test_a_value_of_a_megabyte_is_read(paths):
    stage(paths, "network", "A='" + "x" * (1 << 20) + "'\nB='2'\n")
    variables = sources.read(paths).variables
    assert len(variables["A"]) == 1 << 20
    assert variables["B"] == "2"


def test_a_file_of_50_megabytes_is_too_large_and_costs_nothing(paths):
    path = paths.context / "context.sh.network"
    with path.open("wb") as file:
        file.truncate(50 << 20)
    began = time.monotonic()
    read = sources.read(paths)
    assert time.monotonic() - began < 1
    assert codes(read) == ["context.too_large"]
    assert str(context.SIZE_LIMIT_BYTES) in read.findings[0].message


def test_the_largest_context_is_still_read(paths):
    head, tail = b"A='", b"'\n"
    filler = b"x" * (context.SIZE_LIMIT_BYTES - len(head) - len(tail))
    stage(paths, "network", head + filler + tail)
    assert sources.read(paths).findings == ()
    stage(paths, "network", head + filler + b"x" + tail)
    assert codes(sources.read(paths)) == ["context.too_large"]


def test_a_context_is_never_run(paths, tmp_path):
    stage(paths, "network", f"A='$(touch {tmp_path}/ran)'\nB='`touch {tmp_path}/ran`'\n")
    assert sources.read(paths).variables["A"].startswith("$(touch")
    assert not (tmp_path / "ran").exists()


def test_a_given_file_replaces_the_context_and_has_no_token(paths, tmp_path):
    stage(paths, "network", "A='of the VM'\n")
    (paths.context / "one_env").write_text(HEAD)
    mine = tmp_path / "mine.sh"
    mine.write_text("A='mine'\nVMID='7'\n")
    read = sources.read(paths, context_file=mine)
    assert read.variables["A"] == "mine"
    assert (read.access, read.vmid) == (None, "7")


def test_a_given_file_that_is_absent_is_named(paths, tmp_path):
    stage(paths, "network", "A='1'\n")
    read = sources.read(paths, context_file=tmp_path / "absent.sh")
    assert codes(read) == ["context.missing"]
    assert "absent.sh" in read.findings[0].message


# The way to OneGate


def test_one_env_gives_the_access(paths):
    stage(paths, "network", "A='1'\n")
    (paths.context / "one_env").write_text(HEAD + 'export A="1"\n')
    read = sources.read(paths)
    assert read.access == OneGateAccess(ENDPOINT, "29", Secret(TOKEN))
    assert read.vmid == "29"
    assert TOKEN not in repr(read)


def test_what_one_env_lacks_the_context_has(paths):
    stage(paths, "network", f"VMID='29'\nONEGATE_ENDPOINT='{ENDPOINT}'\n")
    (paths.context / "one_env").write_text(f'export TOKENTXT="{TOKEN}"\n')
    assert sources.read(paths).access == OneGateAccess(ENDPOINT, "29", Secret(TOKEN))


@pytest.mark.parametrize(
    "lost",
    ["", HEAD.replace(TOKEN, ""), HEAD.replace("29", ""), HEAD.replace(ENDPOINT, ""), "\0\xff"],
)
def test_without_any_of_the_three_there_is_no_access(paths, lost):
    stage(paths, "network", "A='1'\n")
    (paths.context / "one_env").write_text(lost)
    read = sources.read(paths)
    assert read.access is None
    assert read.findings == ()


def test_a_token_in_the_context_is_no_token(paths):
    stage(
        paths, "network", f"TOKEN='YES'\nVMID='29'\nONEGATE_ENDPOINT='{ENDPOINT}'\nTOKENTXT='x'\n"
    )
    assert sources.read(paths).access is None


def test_a_broken_context_leaves_the_access(paths):
    stage(paths, "network", "A='1\n")
    (paths.context / "one_env").write_text(HEAD)
    read = sources.read(paths)
    assert codes(read) == ["context.malformed"]
    assert read.access is not None


def test_a_large_one_env_is_no_matter(paths):
    stage(paths, "network", "A='1'\n")
    (paths.context / "one_env").write_text(HEAD + 'export A="' + "x" * (5 << 20) + '"\n')
    read = sources.read(paths)
    assert read.findings == ()
    assert read.access is not None


def test_every_trouble_is_found_at_once(paths):
    stage(paths, "network", "A='1\n")
    (paths.context / "one_env").mkdir()
    paths.config.write_text("- a list\n")
    assert codes(sources.read(paths)) == [
        "context.malformed",
        "context.malformed",
        "config.invalid",
    ]


# The image builder's defaults


def config(paths, content):
    stage(paths, "network", "A='1'\n")
    data = content if isinstance(content, bytes) else content.encode()
    paths.config.write_bytes(data)
    return sources.read(paths)


WRITTEN = {
    "text": ("flower_role: supernode\n", {"flower_role": "supernode"}),
    "a quoted text": ('flower_role: "yes"\n', {"flower_role": "yes"}),
    "a version is no number": ("flower_version: 1.30\n", {"flower_version": "1.30"}),
    "a whole number": ("fl_num_rounds: 007\n", {"fl_num_rounds": "007"}),
    "minutes are no number": ("flower_server_address: 12:30\n", {"flower_server_address": "12:30"}),
    "a date is text": ("flower_image_prefix: 2024-99-99\n", {"flower_image_prefix": "2024-99-99"}),
    "an odd number": ("a: 0b_\nb: " + "9" * 5000 + "\n", {"a": "0b_", "b": "9" * 5000}),
    "yes and off": (
        "tls_enabled: yes\ngpu_enabled: off\n",
        {"tls_enabled": "yes", "gpu_enabled": "off"},
    ),
    "true": ("tls_enabled: true\n", {"tls_enabled": "true"}),
    "null": ("flower_role: ~\na:\nb: null\n", {"flower_role": "", "a": "", "b": ""}),
    "several lines": ("tls_cert: |\n  one\n  two\n", {"tls_cert": "one\ntwo\n"}),
    "a name like yes": ("on: x\n", {"on": "x"}),
    "a comment": ("# nothing\n", {}),
    "nothing": ("", {}),
    "null alone": ("~\n", {}),
    "a document mark": ("---\na: b\n", {"a": "b"}),
    "UTF-8": ("fl_strategy: Größe\n", {"fl_strategy": "Größe"}),
    "a name twice": ("a: 1\na: 2\n", {"a": "2"}),
    "a windows file": ("a: 1\r\nb: 2\r\n", {"a": "1", "b": "2"}),
}


@pytest.mark.parametrize(("text", "wanted"), WRITTEN.values(), ids=WRITTEN)
def test_defaults_are_taken_as_they_are_written(paths, text, wanted):
    read = config(paths, text)
    assert read.config == wanted
    assert read.findings == ()


REFUSED = {
    "a list": ("- a\n- b\n", "is not a mapping"),
    "a word": ("supernode\n", "is not a mapping"),
    "a list as a value": ("flower_tls_sans: [a, b]\n", "flower_tls_sans is a list"),
    "a mapping as a value": ("fl:\n  config: 1\n", "fl is a mapping"),
    "a list as a name": ("? [a]\n: b\n", "a name is a list"),
    "tabs": ("a:\n\tb: 1\n", "is not YAML at line 2"),
    "an open quote": ('a: "b\n', "is not YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "is not YAML"),
    "an unknown alias": ("a: *b\n", "is not YAML at line 1"),
    "binary": (b"\x7fELF\0\0\1\xff", "is not YAML"),
    "not UTF-8": (b"a: \xff\xfe\n", "is not YAML"),
    "deep": ("a: " + "[" * 600, "is not YAML"),
    "large": ("a: " + "b" * sources.MAX_CONFIG_BYTES, "is larger than"),
    "a merge": ("<<: {a: 1}\n", "a name is a merge"),
    "an object": ("a: !!python/object:os.system x\n", "a is a python/object:os.system"),
    "binary by tag": ("a: !!binary aGVsbG8=\n", "a is a binary"),
    "a set": ("a: !!set {b, c}\n", "a is a set"),
    "a tag of its own": ("a: !vault x\n", "a is a !vault"),
}


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_mapping_of_names_to_texts_is_refused(paths, text, why):
    read = config(paths, text)
    assert codes(read) == ["config.invalid"]
    assert why in read.findings[0].message
    assert str(paths.config) in read.findings[0].message
    assert read.variables == {"A": "1"}


@pytest.mark.parametrize(
    "tag", ["apply:os.system", "object/apply:os.system", "object/new:os.system", "name:os.system"]
)
def test_a_tag_runs_nothing(paths, tmp_path, tag):
    read = config(paths, f"a: !!python/{tag} ['touch {tmp_path}/ran']\n")
    assert codes(read) == ["config.invalid"]
    assert not (tmp_path / "ran").exists()


def test_a_bomb_of_aliases_is_refused_at_once(paths):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 30)]
    began = time.monotonic()
    assert codes(config(paths, "\n".join(lines))) == ["config.invalid"]
    assert time.monotonic() - began < 1


def test_a_secret_in_a_broken_file_is_not_repeated(paths):
    read = config(paths, "flower_registry_password: hunter2\n\tx: [hunter2\n")
    assert codes(read) == ["config.invalid"]
    assert "hunter2" not in repr(read)


def test_a_config_that_is_a_directory_is_refused(paths):
    stage(paths, "network", "A='1'\n")
    paths.config.mkdir()
    read = sources.read(paths)
    assert codes(read) == ["config.invalid"]
    assert "cannot be read" in read.findings[0].message


def test_no_bytes_in_any_file_raise(tmp_path):
    paths = places(tmp_path)
    files = [paths.context / "context.sh.network", paths.context / "one_env", paths.config]

    @examples(max_examples=150, deadline=None)
    @given(st.tuples(*[st.binary(max_size=60) | st.text("a:'\"\n[]{}*&!~-= \t1", max_size=40)] * 3))
    def holds(contents):
        for path, content in zip(files, contents, strict=True):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        read = sources.read(paths)
        assert all(isinstance(value, str) for value in read.config.values())

    holds()


# What changes


def test_the_stamp_changes_with_every_file(paths):
    seen = {sources.stamp(paths)}
    files = [paths.context / name for name in (*sources.STAGES, "one_env")] + [paths.config]
    for path in files:
        path.write_text("A='1'\n")
        seen.add(sources.stamp(paths))
    assert len(seen) == 6
    assert sources.stamp(paths) == sources.stamp(paths)


def test_the_stamp_changes_when_a_file_is_replaced_removed_or_touched(paths):
    path = paths.context / "context.sh.network"
    path.write_text("A='1'\n")
    seen = [sources.stamp(paths)]
    moment = path.stat().st_mtime_ns

    other = path.with_name("new")  # of the same size and time
    other.write_text("A='2'\n")
    os.utime(other, ns=(moment, moment))
    other.replace(path)
    seen.append(sources.stamp(paths))

    os.utime(path, ns=(moment + 1, moment + 1))
    seen.append(sources.stamp(paths))

    path.unlink()
    seen.append(sources.stamp(paths))
    assert len(set(seen)) == 4
