"""Where everything lives: the places of the contract, under ``--root``."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True, slots=True)
class Paths:
    """The agent's places; `root` is ``/`` on a VM and a directory of its own in a sandbox."""

    root: pathlib.Path

    @property
    def context(self) -> pathlib.Path:
        """What OpenNebula's contextualization left; read, never written."""
        return self.root / "run/one-context"

    @property
    def config(self) -> pathlib.Path:
        """The image builder's defaults."""
        return self.root / "etc/flower-agent/config.yaml"

    @property
    def certificates(self) -> pathlib.Path:
        """A SuperLink's certificate that somebody puts there and renews."""
        return self.root / "etc/flower-agent/tls"

    @property
    def state(self) -> pathlib.Path:
        """State that survives a reboot."""
        return self.root / "var/lib/flower-agent"

    @property
    def tls(self) -> pathlib.Path:
        """Certificates and the CA; the CA's key lies in ``tls/ca`` (0700), mounted nowhere."""
        return self.state / "tls"

    @property
    def keys(self) -> pathlib.Path:
        """The SuperNode's private key (0700)."""
        return self.state / "keys"

    @property
    def record(self) -> pathlib.Path:
        """What the agent remembers across reboots."""
        return self.state / "state.json"

    @property
    def audit(self) -> pathlib.Path:
        """The record of who did what; older parts, head and lock lie beside it (0600)."""
        return self.state / "audit.jsonl"

    @property
    def audit_link(self) -> pathlib.Path:
        """A link to it, where people look for logs."""
        return self.root / "var/log/flower-agent/audit.jsonl"

    @property
    def requests(self) -> pathlib.Path:
        """What operators asked of the daemon and it has not done yet."""
        return self.state / "orders"

    @property
    def superlink(self) -> pathlib.Path:
        """The SuperLink's database; writable by uid 49999 through its group."""
        return self.state / "superlink"

    @property
    def copies(self) -> pathlib.Path:
        """Copies of the database from before an upgrade."""
        return self.state / "copies"

    @property
    def runs(self) -> pathlib.Path:
        """The run of the context, and what is kept of runs (0710: Flower's group passes)."""
        return self.state / "runs"

    @property
    def live_runs(self) -> pathlib.Path:
        """What running apps write, mounted into the containers that run apps."""
        return self.runs / "live"

    @property
    def caches(self) -> pathlib.Path:
        """What apps download, one directory for each bundle; mounted there, too."""
        return self.state / "caches"

    @property
    def launcher(self) -> pathlib.Path:
        """The programs that start apps, mounted there read-only."""
        return self.state / "launcher"

    @property
    def data(self) -> pathlib.Path:
        """The node's training data, mounted read-only at ``/app/data``."""
        return self.state / "data"

    @property
    def app_environment(self) -> pathlib.Path:
        """The environment of app processes (0440, group 49999); absent where nothing is set."""
        return self.state / "environment/apps.json"

    @property
    def bake(self) -> pathlib.Path:
        """Wheels of an image that is being made."""
        return self.state / "bake"

    @property
    def app(self) -> pathlib.Path:
        """The app of CUSTOM_APP_REPO, while what it needs is looked up (0700)."""
        return self.state / "app"

    @property
    def runtime(self) -> pathlib.Path:
        """Files of this boot."""
        return self.root / "run/flower-agent"

    @property
    def state_disk(self) -> pathlib.Path:
        """What flower-state.service did with FLOWER_STATE_DISK in this boot."""
        return self.root / "run/flower-agent-state/disk.json"

    @property
    def proxy(self) -> pathlib.Path:
        """What HAProxy reads, in front of a SuperLink (0750, its group)."""
        return self.runtime / "proxy"

    @property
    def gateway(self) -> pathlib.Path:
        """What the gateway reads, and the socket where it asks (0750, its group)."""
        return self.runtime / "gateway"

    @property
    def gateway_sockets(self) -> pathlib.Path:
        """Where the gateway listens for HAProxy; made by its unit."""
        return self.root / "run/flower-gateway"

    @property
    def status(self) -> pathlib.Path:
        """The status file: 0644, atomic, no secrets."""
        return self.runtime / "status.json"

    @property
    def onegate(self) -> pathlib.Path:
        """The attributes that OneGate acknowledged in this boot, and the token used (0600)."""
        return self.runtime / "onegate.json"

    @property
    def metrics(self) -> pathlib.Path:
        """For node_exporter's textfile collector, with FLOWER_METRICS=YES."""
        return self.runtime / "metrics/flower-agent.prom"

    @property
    def lock(self) -> pathlib.Path:
        """Held (flock) by the one running agent of this root."""
        return self.runtime / "lock"

    @property
    def appliance(self) -> pathlib.Path:
        """one-apps' files about a VM; updated if they exist."""
        return self.root / "etc/one-appliance"

    @property
    def appliance_logs(self) -> pathlib.Path:
        """The logs of one-apps' stages."""
        return self.root / "var/log/one-appliance"

    @property
    def agent_log(self) -> pathlib.Path:
        """What the agent wrote, where no unit has a journal for it: the sandbox."""
        return self.root / "var/log/flower-agent/agent.log"

    @property
    def motd(self) -> pathlib.Path:
        """What greets who logs in."""
        return self.root / "etc/motd"

    @property
    def images_lock(self) -> pathlib.Path:
        """Digests of the images that ``flower-agent bake`` pinned."""
        return self.root / "usr/share/flower-agent/images.lock"
