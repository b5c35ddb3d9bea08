"""A real ACME server and certbot, both from PyPI, in a network of their own with a DNS server.

The server (acme2certifier) checks http-01 challenges by asking DNS for the name and port 80 for the
token, as a public one does. It issues from an intermediate CA whose root the test made.
"""

import os
import pathlib
import subprocess
import textwrap
import venv

PACKAGES = ("acme2certifier==0.46.3", "certbot==5.8.0", "dnspython==2.9.2")
HOOK = pathlib.Path(__file__).parents[2] / "contrib/certbot/flower-agent"
PORT = 14000

SERVE = f"""
import socket, threading
from wsgiref.simple_server import make_server
import dns.message, dns.rdatatype, dns.rrset
from acme2certifier.share.acme2certifier_wsgi import application, get_handler_cls

def names():
    while True:
        data, who = udp.recvfrom(4096)
        reply = dns.message.make_response(dns.message.from_wire(data))
        asked = reply.question[0]
        if asked.rdtype == dns.rdatatype.A:
            reply.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "A", "127.0.0.1"))
        udp.sendto(reply.to_wire(), who)

udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 53))
threading.Thread(target=names, daemon=True).start()
server = make_server("127.0.0.1", {PORT}, application, handler_class=get_handler_cls())
print("ready", flush=True)
server.serve_forever()
"""

INSIDE = """
set -eu
ip link set lo up
mount --bind resolv.conf /etc/resolv.conf
coproc SERVER { exec "$PYTHON" serve.py 2>server.log; }
read -r _ <&"${SERVER[0]}"
trap 'kill "$SERVER_PID"' EXIT
"$@"
"""


class AcmeServer:
    """It lives for the time of one certbot call; accounts and certificates stay on its disk."""

    def __init__(
        self, directory: pathlib.Path, issuer_pem: str, issuer_key: str, root: str
    ) -> None:
        self._directory = directory
        directory.mkdir()
        (directory / "issued").mkdir()
        self._programs = directory / "programs/bin"
        venv.create(directory / "programs", with_pip=True)
        install = [self._programs / "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *PACKAGES], check=True, capture_output=True, timeout=240)
        for name, text in {
            "issuer.pem": issuer_pem,
            "issuer.key": issuer_key,
            "root.pem": root,
            "crl.pem": "",
            "resolv.conf": "nameserver 127.0.0.1\n",
            "serve.py": SERVE,
            "inside.sh": INSIDE,
            "acme_srv.cfg": self._settings(),
        }.items():
            (directory / name).write_text(text)

    def certbot(self, *arguments: str, into: pathlib.Path) -> str:
        """Run certbot, whose deploy hook puts what it gets into a directory; return its output."""
        state = {
            f"--{kind}-dir": self._directory / f"certbot/{kind}"
            for kind in ("config", "work", "logs")
        }
        command = [self._programs / "certbot", *arguments, "--non-interactive"]
        command += [word for pair in state.items() for word in pair]
        environment = {
            **{name: text for name, text in os.environ.items() if "proxy" not in name.lower()},
            "ACME_SRV_CONFIGFILE": str(self._directory / "acme_srv.cfg"),
            "ACME2CERTIFIER_BASE_DIR": str(self._directory),
            "FLOWER_AGENT_TLS": str(into),
            "PYTHON": str(self._programs / "python"),
        }
        done = subprocess.run(
            ["unshare", "--net", "--mount", "bash", "inside.sh", *map(str, command)],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self._directory,
            env=environment,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said + (self._directory / "server.log").read_text()[-3000:]
        return said

    def obtain(self, name: str, *, into: pathlib.Path) -> str:
        """Get the first certificate for `name`."""
        where = ["--server", f"http://127.0.0.1:{PORT}/directory", "--domain", name]
        who = ["--agree-tos", "--email", "operator@example.org", "--deploy-hook", str(HOOK)]
        return self.certbot("certonly", "--standalone", *where, *who, into=into)

    def renew(self, *, into: pathlib.Path) -> str:
        """Renew it before its time; the hook is remembered."""
        return self.certbot("renew", "--force-renewal", "--no-random-sleep-on-renew", into=into)

    def _settings(self) -> str:
        return textwrap.dedent(f"""
            [DEFAULT]
            debug: False
            [CAhandler]
            handler_module: acme2certifier.cahandlers.openssl_ca_handler
            issuing_ca_key: {self._directory}/issuer.key
            issuing_ca_cert: {self._directory}/issuer.pem
            issuing_ca_crl: {self._directory}/crl.pem
            ca_cert_chain_list: ["{self._directory}/root.pem"]
            cert_save_path: {self._directory}/issued
            cert_validity_days: 90
            [DBhandler]
            handler: wsgi
            dbfile: {self._directory}/acme.db
            """)
