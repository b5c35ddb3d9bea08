"""How packages are made: from locked libraries, the same bytes each time."""

import hashlib
import os
import re
import subprocess
import tomllib
import zipfile

import assemble
import libraries
import pytest
import targets
from conftest import ROOT

PIN = re.compile(r"^([a-z0-9-]+)==(\S+)( \\\n    --hash=sha256:[0-9a-f]{64})+$", re.MULTILINE)


@pytest.mark.parametrize("name", ["debian12", "el9"])
def test_two_builds_of_one_source_are_the_same_bytes(make, name, monkeypatch, tmp_path):
    source = assemble.find_source()
    first = make(name, source)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o077)
    try:
        second = make(name, source)
    finally:
        os.umask(before)
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)}
    assert first.name == second.name
    assert len(digests) == 1


def test_dates_are_those_of_source_date_epoch(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert assemble.find_source().epoch == 1700000000


def test_every_library_is_pinned_with_hashes_and_in_the_range_of_the_project():
    text = libraries.LOCK.read_text()
    body = "".join(line for line in text.splitlines(keepends=True) if line[0] != "#")
    pinned = {match[1]: match[2] for match in PIN.finditer(body)}
    assert PIN.sub("", body).strip() == ""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in project["dependencies"]:
        name, low, high = re.fullmatch(r"([\w-]+)>=([\d.]+),<(\d+)", wanted).groups()
        version = [int(part) for part in re.findall(r"\d+", pinned[name])]
        assert [int(part) for part in low.split(".")] <= version < [int(high)], wanted


def test_the_gateways_libraries_are_pinned_beside_the_agents_and_none_twice():
    pinned = {}
    for lock in (libraries.LOCK, libraries.GATEWAY_LOCK):
        text = lock.read_text()
        body = "".join(line for line in text.splitlines(keepends=True) if line[0] != "#")
        assert PIN.sub("", body).strip() == ""
        pinned[lock] = {match[1]: match[2] for match in PIN.finditer(body)}
    assert pinned[libraries.LOCK].keys().isdisjoint(pinned[libraries.GATEWAY_LOCK])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in project["optional-dependencies"]["gateway"]:
        name, low, high = re.fullmatch(r"([\w-]+)>=([\d.]+),<(\d+)", wanted).groups()
        version = [int(part) for part in pinned[libraries.GATEWAY_LOCK][name].split(".")]
        assert [int(part) for part in low.split(".")] <= version < [int(high)], wanted


def test_a_wheel_of_another_hash_is_refused(tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text(f"tenacity==9.2.1 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(subprocess.CalledProcessError):
        libraries.fetch(tmp_path / "cache", "3.11", "x86_64", libraries.locked(lock))


def test_a_wheel_with_files_for_other_places_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a-1.data/scripts/a", "")
    with pytest.raises(SystemExit, match=r"a-1\.data/scripts/a"):
        libraries.unpack(tmp_path, tmp_path / "target")


def test_no_file_names_a_package_index():
    for path in (ROOT / "contrib" / "package").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert not re.search(r"index-url|pypi\.org|--trusted-host", path.read_text()), path


def test_the_table_has_both_formats_and_every_interpreter_a_wheel():
    assert {target.form for target in targets.TARGETS} == set(targets.Form)
    names = [target.name for target in targets.TARGETS]
    assert len(names) == len(set(names))


def test_an_unknown_target_is_refused_with_the_names_of_all():
    command = [ROOT / "build/venv/bin/python", ROOT / "contrib/package/assemble.py", "debian99"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "debian99; there are debian12" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("architecture", targets.ARCHITECTURES)
@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.name)
def test_every_target_and_architecture_builds(make, target, architecture):
    """The machine code in it is of that architecture and for that interpreter."""
    package = make(target.name, architecture=architecture)
    if target.form is targets.Form.DEB:
        command = ["dpkg-deb", "--contents", package]
    else:
        command = ["rpm", "-qpl", package]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    minor = target.python.replace(".", "")
    machine = targets.ARCHITECTURES[architecture]
    assert f"grpc/_cython/cygrpc.cpython-{minor}-{machine}-linux-gnu.so" in listing
