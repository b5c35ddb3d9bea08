"""OneGate's HTTP API: the only place that sends the VM's token.

Facts: OpenNebula src/onegate/onegate-server.rb. Errors are plain text under a JSON content type;
401 also means that the cloud's own daemon is down. Proxies of the environment are ignored (the
endpoint is link-local) and redirects are refused, so the token goes to one host only.
"""

import dataclasses
import datetime
import email.utils
import json
from typing import Any

import requests
import urllib3

from flower_agent.errors import AgentError
from flower_agent.secret import Secret

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 15.0
"""OneGate may wait for a busy oned; its own limit is 30 s."""

MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_WORDS_BYTES = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """Where OneGate is and who asks (head of ``one_env``)."""

    endpoint: str
    vmid: str
    token: Secret


class OneGate:
    """OneGate as one VM sees it. Every failure is a retryable AgentError ``onegate.…``."""

    def __init__(
        self,
        access: Access,
        *,
        connect_s: float = CONNECT_TIMEOUT_S,
        read_s: float = READ_TIMEOUT_S,
    ) -> None:
        self.access = access
        self.skew_s = 0.0
        """How far this VM's clock is ahead of OneGate's, by the last answer's Date header."""
        self._timeouts = (connect_s, read_s)
        self._session = requests.Session()
        self._session.trust_env = False
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
        """Send one form body made by `report.render` to the own VM."""
        answer = self._call("PUT", "/vm", body)
        if answer.strip():  # OneGate says nothing; a captive portal or a proxy says 200 too
            said = self._said(answer)
            raise AgentError(
                "onegate.garbage",
                f"OneGate's answer to PUT /vm is not empty: {said}",
                retryable=True,
            )

    def close(self) -> None:
        """Close the kept connection."""
        self._session.close()

    def _json(self, path: str) -> Any:
        answer = self._call("GET", path, None)
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise AgentError(
                "onegate.garbage", f"OneGate's answer to GET {path} is not JSON", retryable=True
            ) from error

    def _call(self, method: str, path: str, body: str | None) -> bytes:
        what = f"{method} {path}"
        form = {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
        try:
            with self._session.request(
                method,
                self.access.endpoint.rstrip("/") + path,
                data=body,
                headers=form,
                timeout=self._timeouts,
                allow_redirects=False,
                stream=True,
            ) as reply:
                answer = _read(reply.raw)
                status = reply.status_code
                self.skew_s = _skew_s(reply.headers.get("Date", ""))
        except requests.exceptions.InvalidHeader:
            raise AgentError(
                "onegate.down", f"{what} has a token or a VMID that no header holds", retryable=True
            ) from None  # requests shows the value
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,  # while the answer is read
            OSError,
            ValueError,
        ) as error:
            raise AgentError(
                "onegate.down", f"OneGate does not answer {what}: {_short(error)}", retryable=True
            ) from error
        if len(answer) > MAX_ANSWER_BYTES:
            raise AgentError(
                "onegate.garbage", f"OneGate's answer to {what} never ends", retryable=True
            )
        if status != requests.codes.ok:
            said = self._said(answer)
            # OneFlow lists a VM a moment after it has made it: that one is not outside.
            outside = path == "/service" and status == requests.codes.bad_request
            late = "does not contain" in said
            code = "onegate.no_service" if outside and not late else "onegate.refused"
            raise AgentError(code, f"OneGate answered {what} with {status}: {said}", retryable=True)
        return answer

    def _said(self, answer: bytes) -> str:
        """Return the start of an error's text, without the token should the server echo it."""
        token = self.access.token.reveal()
        text = answer[:MAX_WORDS_BYTES].decode("utf-8", "replace")
        words = " ".join((text.replace(token, "***") if token else text).split())[:200]
        return "".join(c if c.isprintable() else "?" for c in words)


def _read(raw: Any) -> bytes:
    """Return what was sent, to its end or beyond the limit; an end that comes too early raises."""
    found = bytearray()
    while len(found) <= MAX_ANSWER_BYTES and (part := raw.read(1 << 16, decode_content=False)):
        found += part
    return bytes(found)


def _skew_s(date: str) -> float:
    """Return local time less the server's (RFC 9110 Date, whole seconds); 0 where it says none."""
    try:
        there = email.utils.parsedate_to_datetime(date)
        return (datetime.datetime.now(datetime.UTC) - there).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _short(error: BaseException) -> str:
    """Return the reason without the request's URL noise."""
    if isinstance(error, ValueError):
        return "ONEGATE_ENDPOINT is no http:// URL"
    text = str(error)
    for known in ("Connection refused", "timed out", "No route to host", "Failed to resolve"):
        if known in text:
            return known.lower()
    return type(error).__name__
