"""OneGate's HTTP API: the only place that sends the VM's token.

Facts: OpenNebula src/onegate/onegate-server.rb. Errors are plain text under a JSON content type;
401 also means that the cloud's own daemon is down. Proxies of the environment are ignored (the
endpoint is link-local) and redirects are refused, so the token goes to one host only. Cookies are
not kept. Over HTTPS the system's store says whom to trust, as for all other programs of the VM.
"""

import datetime
import email.utils
import functools
import http.client
import http.cookiejar
import io
import json
import socket
import ssl
import time
import urllib.parse
from typing import Any

import requests
import requests.adapters
import urllib3
import urllib3.connection

from flower_agent.config.sources import OneGateAccess
from flower_agent.model.errors import (
    AgentError,
    Finding,
    NoServiceError,
    OneGateDownError,
    OneGateFailedError,
)
from flower_agent.tls import certificates

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 15.0
"""OneGate may wait for a busy oned; its own limit is 30 s."""

TOTAL_S = 30.0
"""From a request to the end of its answer, however often something comes."""

MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_WORDS_BYTES = 4096


class OneGate:
    """OneGate as one VM sees it. Every failure is a retryable AgentError ``onegate.…``."""

    def __init__(
        self,
        access: OneGateAccess,
        *,
        connect_s: float = CONNECT_TIMEOUT_S,
        read_s: float = READ_TIMEOUT_S,
        total_s: float = TOTAL_S,
    ) -> None:
        self.access = access
        self.skew_s = 0.0
        """Seconds by which this VM's clock is ahead of OneGate's, from the last Date header."""
        self.down: Finding | None = None
        """Why the last call got no answer; None after an answered call."""
        self._timeouts = (connect_s, read_s)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(total_s))
        self._session.headers.update(
            {
                "X-ONEGATE-TOKEN": access.token.reveal(),
                "X-ONEGATE-VMID": access.vmid,
                "Accept": "application/json",
                "Accept-Encoding": "identity",  # so that the limit on an answer is a limit
            }
        )

    def service(self) -> Any:
        """Return the service's document, never the extended one (it holds every CONTEXT)."""
        return self._json("/service")

    def vm(self, vmid: str) -> Any:
        """Return the document of a VM of the own service."""
        return self._json(f"/vms/{vmid}")

    def update(self, body: str) -> None:
        """Send one form body made by `status_attributes.render` to the own VM."""
        answer = self._call("PUT", "/vm", body)
        if answer.strip():  # OneGate says nothing; a captive portal or a proxy says 200 too
            said = self._said(answer)
            raise OneGateFailedError(
                "onegate.garbage",
                f"OneGate's answer to PUT /vm is not empty: {said}",
                retryable=True,
            )

    def reach(self) -> None:
        """Connect and close, without a request. Raises the errors of a call."""
        try:
            place = urllib.parse.urlsplit(self.access.endpoint)
            port = place.port or (443 if place.scheme == "https" else 80)
            socket.create_connection((place.hostname or "", port), self._timeouts[0]).close()
        except (OSError, ValueError) as error:
            raise self._down("a connection", error) from error

    def close(self) -> None:
        """Close the kept connection."""
        self._session.close()

    def _json(self, path: str) -> Any:
        answer = self._call("GET", path, None)
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise OneGateFailedError(
                "onegate.garbage", f"OneGate's answer to GET {path} is not JSON", retryable=True
            ) from error

    def _call(self, method: str, path: str, body: str | None) -> bytes:
        try:
            answer = self._exchange(method, path, body)
        except OneGateDownError as error:
            self.down = error.finding
            raise
        except AgentError:
            self.down = None
            raise
        self.down = None
        return answer

    def _exchange(self, method: str, path: str, body: str | None) -> bytes:
        what = f"{method} {path}"
        form = {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
        try:
            with self._session.request(
                method,
                self.access.endpoint.rstrip("/") + path,
                data=body,
                headers=form,
                timeout=self._timeouts,
                allow_redirects=False,  # the token must not go to another host
                stream=True,
            ) as reply:
                answer = _read(reply.raw)
                status = reply.status_code
                self.skew_s = _skew_s(reply.headers.get("Date", ""))
        except requests.exceptions.InvalidHeader:
            raise OneGateDownError(
                "onegate.down",
                f"{what} has a token or a VMID that does not fit into a header",
                retryable=True,
            ) from None  # the chained error of requests would show the token
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,  # while the answer is read
            OSError,
            ValueError,
        ) as error:
            raise self._down(what, error) from error
        if len(answer) > MAX_ANSWER_BYTES:
            raise OneGateFailedError(
                "onegate.garbage", f"OneGate's answer to {what} never ends", retryable=True
            )
        if status != requests.codes.ok:
            said = self._said(answer)
            # OneFlow lists a new VM only after a moment: such a VM is not outside a service.
            outside = path == "/service" and status == requests.codes.bad_request
            late = "does not contain" in said
            message = f"OneGate answered {what} with {status}: {said}"
            if outside and not late:
                raise NoServiceError("onegate.no_service", message, retryable=True)
            raise OneGateFailedError("onegate.refused", message, retryable=True)
        return answer

    def _down(self, what: str, error: Exception) -> AgentError:
        reason, hint = _short(error), ""
        distrusted = _distrusted(error)
        if distrusted is not None:
            shown = _certificate(self.access.endpoint, self._timeouts[0])
            reason = f"certificate not trusted: {shown} ({distrusted})"
            hint = _TRUST
        message = f"OneGate does not answer {what}: {reason}"
        return OneGateDownError("onegate.down", message, hint, retryable=True)

    def _said(self, answer: bytes) -> str:
        """Return the begin of an error's text, without the token if the server repeats it."""
        token = self.access.token.reveal()
        text = answer[:MAX_WORDS_BYTES].decode("utf-8", "replace")
        words = " ".join((text.replace(token, "***") if token else text).split())[:200]
        return "".join(c if c.isprintable() else "?" for c in words)


_TRUST = (
    "Put the CA of OneGate's certificate into the system's store: /usr/local/share/ca-certificates "
    "and update-ca-certificates (Debian, Ubuntu), /etc/pki/ca-trust/source/anchors and "
    "update-ca-trust (EL), /etc/pki/trust/anchors and update-ca-certificates (openSUSE)."
)


class _Timed(io.RawIOBase):
    """Reads from a socket until a deadline; a socket's own limit counts for each wait only."""

    def __init__(self, connection: socket.socket, user: io.BufferedIOBase, end: float) -> None:
        self._socket = connection
        self._user = user
        self._wait_s = connection.gettimeout()
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left if self._wait_s is None else min(left, self._wait_s))
        return self._socket.recv_into(buffer)

    def close(self) -> None:
        """Release the socket, which closes with its last user."""
        self._user.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer with a deadline for everything: headers, endless ``100 Continue``, body."""

    def __init__(self, sock: socket.socket, *args: Any, end: float, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Timed(sock, self.fp, end))


class _Bounded:
    """A connection with a deadline for each request."""

    total_s = TOTAL_S
    response_class: Any

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request; the time for all of it begins now."""
        end = time.monotonic() + self.total_s
        self.response_class = functools.partial(_Response, end=end)
        super().request(*args, **kwargs)  # type: ignore[misc]  # of the connection beside this


class _Plain(_Bounded, urllib3.connection.HTTPConnection):
    pass


class _Encrypted(_Bounded, urllib3.connection.HTTPSConnection):
    pass


class _Adapter(requests.adapters.HTTPAdapter):
    """Connections with a deadline and the system's CA store; requests has its own store."""

    def __init__(self, total_s: float) -> None:
        self._total_s = total_s
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create the pools of connections."""
        super().init_poolmanager(*args, ssl_context=ssl.create_default_context(), **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": self._pool(urllib3.HTTPConnectionPool, _Plain),
            "https": self._pool(urllib3.HTTPSConnectionPool, _Encrypted),
        }

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """Leave trust to the context; requests would add its own store."""

    def _pool(self, pool: Any, connection: Any) -> Any:
        timed = type(connection.__name__, (connection,), {"total_s": self._total_s})
        return type(pool.__name__, (pool,), {"ConnectionCls": timed})


def _distrusted(error: BaseException | None) -> str | None:
    """Return why a certificate was refused, if that is the innermost error."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ssl.SSLCertVerificationError):
            return str(error.verify_message)
        inner = next((part for part in error.args if isinstance(part, BaseException)), None)
        error = inner or getattr(error, "reason", None) or error.__cause__ or error.__context__
        error = error if isinstance(error, BaseException) else None
    return None


def _certificate(endpoint: str, timeout_s: float) -> str:
    """Return subject and issuer of a server's certificate, without sending anything."""
    place = urllib.parse.urlsplit(endpoint)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        where = (place.hostname or "", place.port or 443)
        with (
            socket.create_connection(where, timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=place.hostname) as connection,
        ):
            shown = connection.getpeercert(binary_form=True)
        found = certificates.inspect(ssl.DER_cert_to_PEM_cert(shown or b""))
    except (OSError, ValueError):
        return "the certificate could not be read"
    return f"{found.subject}, issued by {found.issuer}"


def _read(raw: Any) -> bytes:
    """Return the whole body, or a bit more than the limit; raises if the body ends too early."""
    found = bytearray()
    while len(found) <= MAX_ANSWER_BYTES and (part := raw.read(1 << 16, decode_content=False)):
        found += part
    return bytes(found)


def _skew_s(date: str) -> float:
    """Return local time less the server's (RFC 9110 Date, whole seconds); 0 if unknown."""
    try:
        there = email.utils.parsedate_to_datetime(date)
        return (datetime.datetime.now(datetime.UTC) - there).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _short(error: BaseException) -> str:
    """Return the reason without the URL of the request."""
    if isinstance(error, ValueError):
        return "ONEGATE_ENDPOINT is not an http:// URL"
    text = str(error)
    for known in ("Connection refused", "timed out", "No route to host", "Failed to resolve"):
        if known in text:
            return known.lower()
    return type(error).__name__
