"""A world with a clock of its own: calls that wait for a OneGate without a thread or a socket.

The agent's client is the real one; below `requests` stands a transport that hands its bytes to the
sandbox's OneGate. A call that must wait is left with `Underway` and done again from its start, with
the answers that it had, once the next one is there: `look_up` and `ask` ask for nothing else.
"""

import heapq
import io
import itertools
import urllib.parse

import onegate_routes as routes
import requests
import urllib3

from flower_agent.background import Threads
from flower_agent.model.errors import AgentError
from flower_agent.onegate.client import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, OneGate

BACKLOG = 1024
"""Connections that wait at a OneGate (puma's and Linux's default); more are not taken."""

NETWORK_S = 0.002


class Underway(BaseException):
    """The call waits; it is done again when there is more to know."""


class World:
    """A clock, and what happens next."""

    def __init__(self):
        self.now = 0.0
        self.job = None
        self._due = []
        self._order = itertools.count()

    def at(self, when, call):
        """Do `call` at a moment, those of the same moment in the order in which they came."""
        heapq.heappush(self._due, (max(when, self.now), next(self._order), call))

    def run(self, until, end=lambda: False):
        """Let time pass; return when it ended."""
        while self._due and self._due[0][0] <= until and not end():
            self.now, _, call = heapq.heappop(self._due)
            call()
        if not end():
            self.now = until
        return self.now


class Job:
    """A call beside the loop that is under way, and what OneGate answered to it."""

    def __init__(self, world, call, ended):
        self.answer = None
        self._through, self._position = [], 0
        self._world, self._call, self._ended = world, call, ended

    def more(self, answer):
        """Go on with the answer to the call that waits."""
        self.answer = answer
        self.step()

    def step(self):
        self._position, self._world.job = 0, self
        try:
            self._call()
        except Underway:
            return
        finally:
            self._world.job = None
        self._ended()

    def once(self, call):
        """Return what `call` gave when it was through, or try it now."""
        self._position += 1
        if self._position > len(self._through):
            try:
                self._through.append(call())
            except AgentError as error:
                self._through.append(error)
            self.answer = None
        found = self._through[self._position - 1]
        if isinstance(found, AgentError):
            raise found
        return found


class Client(OneGate):
    """The agent's client over a `Gate`; a call that is through is not made again."""

    def __init__(self, access, world, gate):
        super().__init__(access)
        self._world = world
        self._session.mount("http://", gate)

    def _call(self, method, path, body):
        make = super()._call
        return self._world.job.once(lambda: make(method, path, body))


class VirtualThreads(Threads):
    """The agent's `Threads` on the world's clock."""

    def __init__(self, world, wake):
        super().__init__(wake)
        self._world = world

    def start(self, _, run):
        job = Job(self._world, run, self.wake)
        self._world.at(self._world.now, job.step)

    def sleep(self, seconds):
        """Pause inside a call."""
        job = self._world.job

        def pause():
            if job.answer is None:
                self._world.at(self._world.now + seconds, lambda: job.more(True))
                raise Underway
            return True

        job.once(pause)

    def clock(self):
        """Return the time inside a call, the same when it is done again."""
        return self._world.job.once(lambda: self._world.now)


class Gate(requests.adapters.BaseAdapter):
    """A OneGate that answers so many requests a second, one after the other; a transport, too."""

    def __init__(self, world, cloud, a_second=float("inf")):
        super().__init__()
        self._world, self._cloud = world, cloud
        self._each_s = 1.0 / a_second
        self._free_at, self._waiting = 0.0, 0
        self._services = {}
        self.outages = []
        self.arrivals = []
        """When each request came, its method and path, and who sent it."""

        self.failed = 0

    def send(self, request, **_):
        found = self._world.job.answer
        if found is None:
            self._accept(self._world.job, request)
            raise Underway
        if isinstance(found, Exception):
            raise found
        return _reply(request, found)

    def close(self):
        pass

    def _accept(self, job, request):
        world, now = self._world, self._world.now
        vmid = request.headers["X-ONEGATE-VMID"]
        self.arrivals.append((now, request.method, urllib.parse.urlsplit(request.url).path, vmid))
        if any(begin <= now < end for begin, end in self.outages):
            self._fail(job, now + NETWORK_S, requests.ConnectionError("Connection refused"))
        elif self._waiting >= BACKLOG:
            self._fail(job, now + CONNECT_TIMEOUT_S, requests.ConnectTimeout("timed out"))
        else:
            self._free_at = max(now, self._free_at) + self._each_s
            at, self._waiting = self._free_at + NETWORK_S, self._waiting + 1
            late = at > now + READ_TIMEOUT_S
            if late:  # and it is worked off all the same
                self._fail(job, now + READ_TIMEOUT_S, requests.ReadTimeout("timed out"))
            world.at(at, lambda: self._answer(None if late else job, request))

    def _fail(self, job, at, error):
        self.failed += 1
        self._world.at(at, lambda: job.more(error))

    def _answer(self, job, request):
        self._waiting -= 1
        answer = self._respond(request)
        if job is not None:
            job.more(answer)

    def _respond(self, request):
        """Ask the sandbox's OneGate; a service's list changes with the number of VMs only."""
        path = urllib.parse.urlsplit(request.url).path
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = routes.Call(request.method, path, headers, (request.body or "").encode())
        if path != "/service":
            return routes.respond(self._cloud, call)
        service = routes._source(self._cloud, call).service_id, len(self._cloud.machines())
        if service not in self._services:
            self._services[service] = routes.respond(self._cloud, call)
        return self._services[service]


def _reply(request, answer):
    reply = requests.Response()
    reply.status_code, reply.request, reply.url = answer.status, request, request.url
    reply.raw = urllib3.HTTPResponse(io.BytesIO(answer.body), preload_content=False)
    return reply
