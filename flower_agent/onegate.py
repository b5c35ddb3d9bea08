"""OneGate's HTTP API: the only place that sends the VM's token.

Facts: OpenNebula src/onegate/onegate-server.rb. Errors are plain text under a JSON content type;
401 also means that the cloud's own daemon is down. Proxies of the environment are ignored (the
endpoint is link-local) and redirects are refused, so the token goes to one host only.
"""

import dataclasses
import json
from typing import Any

import requests

from .errors import AgentError
from .secret import Secret

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 15.0
"""OneGate may wait for a busy oned; its own limit is 30 s."""

MAX_ANSWER_BYTES = 8 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """Where OneGate is and who asks (head of ``one_env``)."""

    endpoint: str
    vmid: str
    token: Secret


class OneGate:
    """OneGate as one VM sees it. Every failure is a retryable AgentError ``onegate.…``."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update(
            {
                "X-ONEGATE-TOKEN": access.token.reveal(),
                "X-ONEGATE-VMID": access.vmid,
                "Accept": "application/json",
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
        self._call("PUT", "/vm", body)

    def close(self) -> None:
        """Close the kept connection."""
        self._session.close()

    def _json(self, path: str) -> Any:
        answer = self._call("GET", path, None)
        try:
            return json.loads(answer)
        except ValueError as error:
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
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                allow_redirects=False,
                stream=True,
            ) as reply:
                answer: bytes = reply.raw.read(MAX_ANSWER_BYTES + 1, decode_content=True)
                status = reply.status_code
        except (requests.RequestException, OSError, ValueError) as error:
            raise AgentError(
                "onegate.down", f"OneGate does not answer {what}: {_short(error)}", retryable=True
            ) from error
        except Exception as error:
            if type(error).__module__.startswith("urllib3"):
                raise AgentError(
                    "onegate.down", f"OneGate broke off its answer to {what}", retryable=True
                ) from error
            raise
        if len(answer) > MAX_ANSWER_BYTES:
            raise AgentError("onegate.garbage", f"OneGate's answer to {what} never ends")
        if status != requests.codes.ok:
            said = " ".join(answer[:200].decode("utf-8", "replace").split())
            outside = path == "/service" and status == requests.codes.bad_request
            code = "onegate.no_service" if outside else "onegate.refused"
            raise AgentError(code, f"OneGate answered {what} with {status}: {said}", retryable=True)
        return answer


def _short(error: BaseException) -> str:
    """Return the reason without the request's URL noise."""
    text = str(error)
    for known in ("Connection refused", "timed out", "No route to host", "Name or service not"):
        if known in text:
            return known.lower()
    return type(error).__name__
