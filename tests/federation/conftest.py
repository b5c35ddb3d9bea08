"""Whole VMs on this machine."""

import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

import pytest
from watched import WatchedFederation


@pytest.fixture(scope="package")
def images(docker_url: str) -> None:
    """The Flower images; built from PyPI where no registry answers."""
    root = pathlib.Path(__file__).parents[2]
    build = [sys.executable, root / "contrib/images/build.py"]
    subprocess.run([*build, "--flower", "1.25.0", "--framework", "sklearn"], check=True)


@pytest.fixture
def lone(tmp_path: pathlib.Path, images: None) -> Iterator[Callable[..., WatchedFederation]]:
    """Makes federations that are taken down at the end; `deploy` decides which VMs exist."""
    made: list[WatchedFederation] = []

    def make(
        base_port: int,
        name: str,
        scale: float = 1.0,
        environment: Mapping[str, str] | None = None,
        **variables: str,
    ) -> WatchedFederation:
        federation = WatchedFederation(
            tmp_path / name,
            name=name,
            base_port=base_port,
            variables=variables,
            environment={"FLOWER_AGENT_TIME_SCALE": str(scale), **(environment or {})},
            say=lambda _: None,
        )
        federation.start_onegate()
        made.append(federation)
        return federation

    yield make
    for federation in made:
        federation.down()
