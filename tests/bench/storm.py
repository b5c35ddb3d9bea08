"""A boot storm: SuperNodes that boot within a second, their SuperLinks, one OneGate; no real time.

The reports, the search and the watch are the agent's own code (`Reporter`, `Finder`, `Registrar`,
`enrolment`); Flower is a pause. `still` takes the chance out of every pause: what it would be if
agents that boot together went on together.
"""

import dataclasses
import datetime
import itertools
import pathlib
import random
import statistics
import tempfile

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from onegate_cloud import Cloud
from virtual import Client, Gate, VirtualThreads, World

from flower_agent.agent import loop
from flower_agent.config import parsing
from flower_agent.config.sources import OneGateAccess
from flower_agent.enrolment import policy
from flower_agent.enrolment.registrar import Registrar
from flower_agent.flower.control_messages import NodeInfo, NodeStatus
from flower_agent.model import pem
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret
from flower_agent.model.state import State
from flower_agent.onegate.publisher import LONGEST_WAIT_S, OneGatePublisher
from flower_agent.onegate.superlink_search import SuperLinkSearch

ENDPOINT = "http://169.254.16.9:5030"
NODE = {"FLOWER_ROLE": "client"}
WALL = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
BOOT_S = 1.0
FLOWER_S = 1.0
"""From the answer of OneGate to a SuperNode that asks to be let in."""

REFUSED_S = (5.0, 15.0)
"""Between two tries of a SuperNode whose key is not known yet."""

SETTLED_AFTER_S = 180.0
WATCH_S = 600.0
OUTAGE_S = 120.0
PATIENCE_S = 7200.0
CA = "QUJD" * 300
"""As long as a CA's PEM in base64."""


class Still(random.Random):
    """No chance at all."""

    def random(self):
        return 0.5


@dataclasses.dataclass(frozen=True)
class Storm:
    """What is tried."""

    nodes: int
    services: int = 1
    a_second: float = float("inf")
    """Requests that OneGate answers."""

    keys: bool = True
    """SuperNodes need keys, and wait to be enrolled."""

    still: bool = False
    dark_s: float = 0.0
    """OneGate is away so long from the moment on in which the VMs boot."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of it; times in seconds since the VMs boot, counts in requests a second."""

    ready_s: float
    half_s: float
    burst: int
    """In the busiest second while they boot; after an outage, from its end on."""

    calm: int
    """In the busiest second of ten minutes, two minutes after all are ready."""

    mean: float
    back: int
    """In the busiest second after two minutes without OneGate."""

    puts: float
    """Of each SuperNode, until it is ready."""

    looks: float
    failed: int
    lost: int
    """SuperNodes of which OneGate does not know at the end that they are ready."""

    link_a_minute: float
    """Requests of one SuperLink, once all are ready."""


class Guest:
    """What SuperLinks and SuperNodes have in common: a turn, and the pause after it."""

    def __init__(self, world, gate, memory, vmid, token, *, rng):
        self.world, self.vmid, self.rng = world, vmid, rng
        self.threads = VirtualThreads(world, self.wake)
        self.reporter = OneGatePublisher(memory, self.threads, now=world.now, rng=rng, reach=None)
        access = OneGateAccess(ENDPOINT, vmid, Secret(token))
        self.reporter.client = Client(access, world, gate)
        self.reporter.use(access)
        self._turns = 0

    def wake(self):
        """Turn now; a turn that was due later is given up."""
        self._turns += 1
        self.world.at(self.world.now, lambda turn=self._turns: self._turn(turn))

    def offer(self, attributes):
        self.reporter.offer(attributes, now=self.world.now, wall=WALL)

    def _turn(self, turn):
        if turn == self._turns:
            pause = max(min(self.turn(), self.reporter.wait_s(self.world.now)), 0.01)
            self.world.at(self.world.now + pause, lambda: self._turn(turn))


class Link(Guest):
    """A SuperLink that is ready, and the nodes that its Flower knows."""

    def __init__(self, keys, *of_a_guest, rng):
        super().__init__(*of_a_guest, rng=rng)
        self.keys = keys
        threads = self.threads
        self.registrar = Registrar(threads, rng=self.rng, sleep=threads.sleep, clock=threads.clock)
        self.pins, self.nodes = (), {}
        self._judged = 0
        self._ids = itertools.count(1)

    def turn(self):
        now = self.world.now
        self.offer(
            {
                "FLOWER_STATE": "ready",
                "FLOWER_ROLE": "superlink",
                "FLOWER_TLS": "YES",
                "FLOWER_ENDPOINT": "172.20.0.4:9092",
                "FLOWER_CA_CERT": CA,
                "FLOWER_NODE_AUTH": "YES" if self.keys else "NO",
            }
        )
        if not self.keys:
            return loop.IDLE_S
        self.registrar.watch(self.reporter.client, self.pins, self.nodes, now)
        told = sum(claim.key is not None for claim in self.registrar.claims.values())
        if told != self._judged:
            self._judged = told
            self._enrol()
        return min(loop.IDLE_S, self.registrar.wait_s(now))

    def _enrol(self):
        found = policy.decide(self.pins, self.registrar.claims.values(), (), self.nodes)
        self.pins = found.pins
        for step in found.steps:
            key = pem.node_key_pem(step.key).strip()
            number = str(next(self._ids))
            self.nodes[key] = NodeInfo(node_id=number, status=NodeStatus.REGISTERED, public_key=key)


class Node(Guest):
    """A SuperNode from its boot on."""

    def __init__(self, link, settled, *of_a_guest, rng):
        super().__init__(*of_a_guest, rng=rng)
        self._link, self._settled = link, settled
        self._settings = parsing.parse(NODE, {}).settings
        self._superlink_search = SuperLinkSearch(self.threads, rng=self.rng)
        self._key = public_key()
        self._told = {"FLOWER_NODE_KEY": self._key} if link.keys else {}
        self._state, self._phase, self._error = "starting", "context", ""
        self._partition = None

    def turn(self):
        if self._phase in ("context", "discover"):
            self._discover()
        told = {"FLOWER_STATE": self._state, "FLOWER_PHASE": self._phase, **self._told}
        self.offer({**told, "FLOWER_ROLE": "supernode", "FLOWER_ERROR": self._error})
        self._phase = "discover" if self._phase == "context" else self._phase
        quiet = self._state == "ready" and self.reporter.trouble is None
        # Idle turns that change nothing are left out: a heartbeat ends the pause by itself.
        return LONGEST_WAIT_S if quiet else loop.WAITING_S

    def _discover(self):
        client, record, now = self.reporter.client, State(), self.world.now
        try:
            self._superlink_search.find(self._settings, client, record, now=now)
            part = self._superlink_search.partition(client, record)
        except AgentError as error:
            self._error = error.finding.code
            return
        self._phase, self._error = "health", ""
        self._told["FLOWER_PARTITION"] = f"{part.partition_id}/{part.num_partitions}"
        self.world.at(now + FLOWER_S, self._knock)

    def _knock(self):
        """Do what Flower's SuperNode does: it is let in, or ends and is started again."""
        node = policy.node_of(self._key, self._link.nodes)
        if node is None and self._link.keys:
            self._phase, self._error = "enrol", "enrol.waiting"
            self.world.at(self.world.now + self.rng.uniform(*REFUSED_S), self._knock)
        else:
            if node is not None:
                online = dataclasses.replace(node, status=NodeStatus.ONLINE)
                self._link.nodes[node.public_key] = online
            self._state, self._phase, self._error = "ready", "", ""
            self._settled(self)
        self.wake()


class Cluster:
    """The world of one storm."""

    def __init__(self, storm, directory):
        self.storm, self.world, self.cloud = storm, World(), Cloud()
        self.gate = Gate(self.world, self.cloud, storm.a_second)
        self.ready = {}
        self._directory, self._seeds = directory, itertools.count(1)
        each = storm.nodes // storm.services
        self.links, self.names = [], {}
        for number in range(storm.services):
            first = 1 + number * (each + 1)
            self.cloud.add_service(number + 1, "flower", [("superlink", 1), ("supernode", each)])
            name = f"superlink_0_(service_{number + 1})"
            self.links.append(self._guest(Link, first, name, storm.keys)())
            for index in range(each):
                name = f"supernode_{index}_(service_{number + 1})"
                self.names[first + 1 + index] = (name, self.links[-1])

    def begin(self):
        """Let the SuperLinks settle, then boot every SuperNode within a second."""
        for link in self.links:
            link.wake()
        self.world.run(SETTLED_AFTER_S)
        self.born_at = self.world.now
        if self.storm.dark_s:
            self.gate.outages.append((self.born_at, self.born_at + self.storm.dark_s))
        chance = random.Random(0)
        for vmid, (name, link) in self.names.items():
            node = self._guest(Node, vmid, name, link, self._took)
            at = self.born_at + BOOT_S * chance.random()
            self.world.at(at, lambda node=node: node().wake())

    def told_ready(self):
        """Return of how many SuperNodes OneGate knows that they are ready."""
        return sum(self.cloud.gate_open(vmid) for vmid in self.names)

    def busiest(self, begin, end=float("inf")):
        """Return the requests of the busiest second."""
        seconds = {}
        for at, *_ in self.gate.arrivals:
            if begin <= at < end:
                seconds[int(at - begin)] = seconds.get(int(at - begin), 0) + 1
        return max(seconds.values(), default=0)

    def sent(self, begin, end, of=None):
        """Return the requests between two moments, of all or of one."""
        return [a for a in self.gate.arrivals if begin <= a[0] < end and of in (None, a[3])]

    def _guest(self, kind, vmid, name, *before):
        """Add a VM; return what boots it."""
        role, service = name.split("_")[0], int(name.rstrip(")").rsplit("_", 1)[1])
        token = self.cloud.add_vm(vmid, name, role, service)
        rng = Still() if self.storm.still else random.Random(next(self._seeds))
        place = self._directory / str(vmid), str(vmid)
        return lambda: kind(*before, self.world, self.gate, *place, token, rng=rng)

    def _took(self, node):
        self.ready[node.vmid] = self.world.now - self.born_at


def run(storm):
    """Boot, wait until OneGate knows all ready, watch, take OneGate away, watch."""
    with tempfile.TemporaryDirectory(prefix="flower-bench-") as directory:
        cluster = Cluster(storm, pathlib.Path(directory))
        cluster.begin()
        return _measured(cluster)


def _measured(cluster):
    world, storm, born = cluster.world, cluster.storm, cluster.born_at
    while cluster.told_ready() < storm.nodes and world.now < born + PATIENCE_S:
        world.run(world.now + 1)
    ready, counted = world.now, cluster.gate.failed
    world.run(ready + SETTLED_AFTER_S + WATCH_S)
    calm_from, calm_to = ready + SETTLED_AFTER_S, world.now
    cluster.gate.outages.append((calm_to, calm_to + OUTAGE_S))
    world.run(calm_to + OUTAGE_S + WATCH_S)
    nodes = {str(vmid) for vmid in cluster.names}
    boot = [a for a in cluster.sent(born, ready) if a[3] in nodes]
    puts = sum(method == "PUT" for _, method, _, _ in boot)
    link = cluster.sent(calm_from, calm_to, of=cluster.links[0].vmid)
    return Result(
        ready_s=ready - born,
        half_s=statistics.median(cluster.ready.values()) if cluster.ready else float("nan"),
        burst=cluster.busiest(born + storm.dark_s, ready),
        calm=cluster.busiest(calm_from, calm_to),
        mean=len(cluster.sent(calm_from, calm_to)) / WATCH_S,
        back=cluster.busiest(calm_to + OUTAGE_S),
        puts=puts / storm.nodes,
        looks=(len(boot) - puts) / storm.nodes,
        failed=counted,
        lost=storm.nodes - cluster.told_ready(),
        link_a_minute=len(link) / WATCH_S * 60,
    )


def public_key():
    """Return a new node key's public half, OpenSSH form."""
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(*form).decode()
