"""A SuperLink's VM as commands reach it, with a Control API in memory."""

import contextlib

from endpoints import authority, issue
from fake_superlink import FakeSuperLink

from flower_agent import cli
from flower_agent.config.flower_versions import Transport
from flower_agent.enrolment.node_key import NodeKeys
from flower_agent.paths import Paths


class Vm:
    """A SuperLink's VM: its context, its CA, and its Control API."""

    def __init__(self, root, link, port, capsys):
        self.paths, self.link, self._capsys = Paths(root), link, capsys
        self.context = {
            "FLOWER_ROLE": "server",
            "FLOWER_ADDRESS": "127.0.0.1",
            "FLOWER_CONTROL_ADDRESS": f"127.0.0.1:{port}",
        }
        self.paths.tls.mkdir(parents=True)
        (self.paths.tls / "ca.crt").write_text(authority().pem)
        self._numbers = iter(range(100))

    def run(self, *arguments):
        """Return exit code, output and errors of a ``nodes`` command."""
        return self.command("nodes", *arguments)

    def command(self, name, *arguments):
        """Return exit code, output and errors of one command."""
        self.paths.context.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{name}='{value}'\n" for name, value in self.context.items())
        (self.paths.context / "context.sh.network").write_text(text)
        self._capsys.readouterr()
        try:
            code = cli.main(["--root", str(self.paths.root), name, *arguments])
        except SystemExit as end:
            code = end.code
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def key(self):
        return NodeKeys(self.paths.root / f"node-{next(self._numbers)}").own("9").public


VERSIONS = ("1.25.0", "1.39.0")
"""One whose Control API speaks gRPC, one that speaks HTTP."""


@contextlib.contextmanager
def running(version, folder, capsys):
    """Give a VM whose SuperLink of that version answers."""
    link = FakeSuperLink()
    leaf = issue("superlink", authority(), hosts=("127.0.0.1",))
    transport = Transport.GRPC if version < "1.37" else Transport.HTTP
    with link.serve(transport, leaf) as address:
        made = Vm(folder, link, address.port, capsys)
        made.context["FLOWER_VERSION"] = version
        yield made
