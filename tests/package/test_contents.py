"""What is in the packages: every file, its mode, and what the package tells of itself."""

import pathlib
import re
import subprocess

import pytest
from conftest import ROOT

from flower_agent import __version__

LISTING = pathlib.Path(__file__).with_name("contents.txt")
DOCS = "/usr/share/doc/flower-agent"
LIBRARY = "/usr/lib/flower-agent/python/"
GATEWAY = "/usr/lib/flower-agent/gateway-lib/"
GATEWAY_IMPORTS = "starlette.applications, uvicorn, httpx"
IMPORTS = "docker, yaml, cryptography.x509, grpc, structlog, tenacity, flower_agent.agent.daemon"
RELEASE = re.escape(__version__)


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def ours(rows):
    """Return modes and places, sorted, without the libraries and our modules."""
    data = ("/flower_agent/build.json", "/flower_agent/locks/")
    rows = [row for row in rows if GATEWAY not in row]
    kept = [row for row in rows if LIBRARY not in row or any(part in row for part in data)]
    return sorted(kept, key=lambda row: row.split(" ", 1)[1])


def deb_rows(deb):
    for line in output("dpkg-deb", "--contents", deb).splitlines():
        mode, owner, _, _, _, place = line.split(None, 5)
        assert owner == "root/root", line
        if not place.endswith("/"):
            yield f"{mode} {place.removeprefix('.')}"


def rpm_rows(rpm):
    form = "[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\n]"
    for line in output("rpm", "-qp", "--queryformat", form, rpm).splitlines():
        mode, owner, place = line.split(" ", 2)
        assert owner == "root:root", line
        if not mode.startswith("d"):
            yield f"{mode} {place}"


def listed(form):
    """Return the rows of `contents.txt` for one format, and one for each page of the docs."""
    rows = [line for line in LISTING.read_text().splitlines() if line and line[0] != "#"]
    marked = [row.split(" ", 1) for row in rows if row.split(" ")[0] in {"deb", "rpm"}]
    both = [row for row in rows if row.split(" ")[0] not in {"deb", "rpm"}]
    both += [f"-rw-r--r-- {DOCS}/{page.name}.gz" for page in (ROOT / "docs").glob("*.md")]
    return ours([*both, *(row for mark, row in marked if mark == form)])


def test_the_deb_holds_what_is_listed(deb):
    assert ours(deb_rows(deb)) == listed("deb")


def test_the_rpm_holds_what_is_listed(program, rpm):
    program("rpm")
    assert ours(rpm_rows(rpm)) == listed("rpm")


def test_every_module_is_in_the_package(tree):
    here = pathlib.Path(__file__).parents[2]
    both = (tree / LIBRARY[1:], here)
    shipped, source = (
        {path.relative_to(top) for path in (top / "flower_agent").rglob("*.py")} for top in both
    )
    assert shipped == source


def test_nothing_compiled_is_shipped(deb):
    assert not re.search(r"\.pyc$|__pycache__", output("dpkg-deb", "--contents", deb), re.MULTILINE)


def test_configuration_is_marked_so_that_edits_survive(program, deb, rpm):
    conffiles = output("dpkg-deb", "--info", deb, "conffiles").split()
    assert conffiles == ["/etc/flower-agent/config.yaml", "/etc/one-context.d/net-90-flower-agent"]
    program("rpm")
    assert output("rpm", "-qp", "--configfiles", rpm).split() == conffiles[:1]


def test_the_libraries_load_with_nothing_else(program, target, tree):
    script = f"import sys; sys.path.append('{tree}{LIBRARY}'); import {IMPORTS}; print('loaded')"
    assert output(program(f"python{target.python}"), "-IBSWerror", "-c", script) == "loaded\n"


def test_the_gateways_libraries_load_with_the_agents_beside_them(program, target, tree):
    places = [f"{tree}{LIBRARY}", f"{tree}{GATEWAY}"]
    script = f"import sys; sys.path += {places}; import {GATEWAY_IMPORTS}; print('loaded')"
    assert output(program(f"python{target.python}"), "-IBSWerror", "-c", script) == "loaded\n"


def test_the_agent_never_has_the_gateways_libraries(program, target, tree):
    for name in ("usr/bin/flower-agent", "usr/lib/flower-agent/live-restore"):
        assert "gateway-lib" not in (tree / name).read_text()
    assert "gateway-lib" in (tree / "usr/lib/flower-agent/flower-agent-gateway").read_text()
    names = {path.name for path in (tree / GATEWAY[1:]).iterdir()}
    assert {"starlette", "uvicorn", "httpx", "h11", "anyio", "httpcore", "click"} <= names
    assert names.isdisjoint(path.name for path in (tree / LIBRARY[1:]).iterdir())
    script = f"import sys; sys.path.append('{tree}{LIBRARY}'); import starlette"
    command = [program(f"python{target.python}"), "-IBS", "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "No module named 'starlette'" in done.stderr


def test_the_gateways_libraries_have_no_machine_code(tree):
    assert [*(tree / GATEWAY[1:]).rglob("*.so")] == []


def test_the_program_tells_package_commit_and_flower_versions(program, target, tree):
    script = (
        f"import sys; sys.path.append('{tree}{LIBRARY}'); from flower_agent import cli; cli.main()"
    )
    told = output(program(f"python{target.python}"), "-IBS", "-c", script, "--version")
    assert re.fullmatch(
        rf"flower-agent {RELEASE}\n"
        rf"package: flower-agent {RELEASE}-{re.escape(target.release)} amd64 \(deb\)\n"
        r"commit: [0-9a-f]{40}(-changed)?\n"
        r"Flower: 1\.23 to 1\.42, 1\.25\.0 by default\n",
        told,
    )


@pytest.mark.parametrize(
    "place",
    [
        "bin/flower-agent",
        "lib/flower-agent/flower-agent-gateway",
        "lib/flower-agent/live-restore",
        "lib/flower-agent/state-disk",
    ],
)
def test_programs_run_by_the_interpreter_of_the_libraries(tree, target, place):
    assert (tree / "usr" / place).read_text().startswith(f"#!/usr/bin/python{target.python} -IBS\n")


def test_the_deb_depends_on_what_it_runs(target, deb):
    depends = output("dpkg-deb", "--field", deb, "Depends")
    for name in (
        f"python{target.python}",
        "docker.io | docker-ce",
        "apparmor",
        "git",
        "e2fsprogs",
        "libc6 (>= 2.34)",
    ):
        assert name in depends
    assert output("dpkg-deb", "--field", deb, "Suggests") == "nvidia-container-toolkit\n"
    assert output("dpkg-deb", "--field", deb, "Recommends") == "haproxy, nftables\n"
    assert "podman-docker" in output("dpkg-deb", "--field", deb, "Conflicts")


def test_the_rpm_depends_on_what_it_runs(program, rpm):
    program("rpm")
    requires = output("rpm", "-qp", "--requires", rpm).splitlines()
    assert {"python3.12", "docker-ce", "git-core", "glibc >= 2.34", "e2fsprogs"} <= set(requires)
    assert output("rpm", "-qp", "--recommends", rpm).split() == ["haproxy", "nftables"]
    assert output("rpm", "-qp", "--conflicts", rpm) == "podman-docker\n"
