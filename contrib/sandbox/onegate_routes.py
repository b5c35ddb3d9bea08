"""OneGate's routes: which request is answered with what.

Sinatra reads query and form before any route runs, so a bad form is refused ahead of a bad token,
and a route that does not exist asks for none. Facts: OpenNebula 7.4,
src/onegate/onegate-server.rb.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from onegate_cloud import APPEND, Cloud, Refused
from onegate_documents import Machine

_FORM = "application/x-www-form-urlencoded"
_FORM_LIMIT = 4 * 1024 * 1024
_BAD_BYTES = "invalid byte sequence in UTF-8"
_HTML = "text/html;charset=utf-8"
_RESTRICTED_ACTIONS = frozenset({"reboot"})
_ACTIONS = frozenset(
    re.findall(
        r"\w+",
        "deploy hold livemigrate migrate resume release stop suspend saveas snapshot_create"
        " snapshot_revert snapshot_delete terminate poweroff chown chmod resize attachdisk"
        " detachdisk attachnic detachnic rename undeploy resched unresched recover delete shutdown",
    )
)
"""What may be done to a VM: it is answered, and nothing happens."""


class _TooLarge(Refused):
    """Refused before OneGate says that its answers are JSON."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it came."""

    method: str
    target: str
    """Path and query."""

    headers: Mapping[str, str]
    """By name in lower case."""

    body: bytes

    @property
    def vmid(self) -> int | None:
        """The VM that the header names."""
        value = self.headers.get("x-onegate-vmid")
        return None if value is None else _to_integer(value)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    status: int
    body: bytes = b""
    location: str | None = None

    content_type: str = "application/json;charset=utf-8"
    """OneGate says JSON of its plain texts too."""


def respond(cloud: Cloud, call: Call) -> Answer:
    """Return OneGate's answer; errors are plain texts."""
    try:
        return _route(cloud, call)
    except _TooLarge as refused:
        return Answer(refused.status, refused.text.encode(), content_type=_HTML)
    except Refused as refused:
        return text(refused.status, refused.text)


def text(status: int, words: str) -> Answer:
    """Return an answer in plain words."""
    return Answer(status, words.encode())


def as_json(status: int, document: Any) -> Answer:
    """Return an answer that holds a document, written as Ruby writes JSON."""
    packed = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return Answer(status, packed.encode())


def _route(cloud: Cloud, call: Call) -> Answer:
    path, _, query = call.target.partition("?")
    params = _form(query) | (_form_body(call.body) if _is_form(call) else {})
    method = "GET" if call.method == "HEAD" else call.method
    match method, path.split("/")[1:]:
        case "GET", ["vm"]:
            return as_json(200, cloud.show(_source(cloud, call)))
        case "GET", ["vms", number] if number:
            source = _source(cloud, call)
            return as_json(200, cloud.show(cloud.requested(source, _to_integer(number))))
        case "GET", ["service"]:
            # The value is not looked at: extended=false is extended too.
            extended = "extended" in params
            return as_json(200, cloud.service(_source(cloud, call), extended=extended))
        case "PUT", ["vm"]:
            source = _source(cloud, call)
            cloud.update(source, *_attributes(call, params))
            return Answer(200)
        case "PUT", ["vms", number] if number:
            machine = cloud.requested(_source(cloud, call), _to_integer(number))
            cloud.update(machine, *_attributes(call, params))
            return Answer(200)
        case _:
            return _rare_route(cloud, call, method, path)


def _rare_route(cloud: Cloud, call: Call, method: str, path: str) -> Answer:
    """Answer what no agent asks for; no VM here is a virtual router's."""
    match method, path.split("/")[1:]:
        case "GET", [""]:
            _source(cloud, call)
            base = f"http://{call.headers.get('host', '')}"
            return as_json(200, {"vm_info": f"{base}/vm", "service_info": f"{base}/service"})
        case "GET", ["vrouter"]:
            _source(cloud, call)
            raise Refused(400, "Empty or invalid VROUTER_ID")
        case "GET", ["vnet", number] if number:
            _source(cloud, call)
            if not re.fullmatch(r"[+-]?[0-9]+", number):
                raise Refused(400, f"Invalid id format (ID: {number}). ID must be an integer.")
            words = "Virtual networks information can only be retrieved from Virtual Routers."
            raise Refused(400, words)
        case "PUT", ["service", "role", role] if role:
            cloud.asked_to_scale(_source(cloud, call), role, _object(call).get("cardinality"))
            return Answer(200)
        case "POST", ["vms", number, "action"] if number:
            cloud.requested(_source(cloud, call), _to_integer(number))
            return _act(_object(call))
        case _:
            raise Refused(400, "OneGate server doesn't support this feature")


def _source(cloud: Cloud, call: Call) -> Machine:
    return cloud.authenticate(call.vmid, call.headers.get("x-onegate-token"))


def _object(call: Call) -> dict[str, Any]:
    try:
        found = json.loads(call.body)
    except ValueError as error:  # its words are Ruby's parser's
        raise Refused(500, f"unexpected token: {error}") from error
    return found if isinstance(found, dict) else {}


def _act(asked: Mapping[str, Any]) -> Answer:
    action = asked.get("action")
    if not isinstance(action, dict):
        raise Refused(400, "Error parsing JSON: Wrong resource type")
    verb = str(action.get("perform", ""))
    if verb.lower() in _RESTRICTED_ACTIONS:
        raise Refused(403, f"Action ({verb}) is not allowed on this resource")
    if verb not in _ACTIONS:
        raise Refused(500, "Internal server error")
    return Answer(204)


def _is_form(call: Call) -> bool:
    return call.headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM


def _attributes(call: Call, params: Mapping[str, str]) -> tuple[str, int]:
    """Return the text of an update and its type: form fields, or else the body as it is."""
    kind = _to_integer(params["type"]) if "type" in params else APPEND
    if "data" in params:
        sent = params["data"].encode(errors="surrogateescape")
    elif len(call.body) > _FORM_LIMIT:  # the real one's limit for raw bodies is not known
        raise Refused(500, "Internal server error")
    else:
        sent = call.body
    try:
        return sent.decode(), kind
    except UnicodeDecodeError as error:
        raise Refused(500, _BAD_BYTES) from error


def _form_body(body: bytes) -> dict[str, str]:
    if len(body) > _FORM_LIMIT:
        raise _TooLarge(500, f"total query size exceeds limit ({_FORM_LIMIT})")
    return _form(body.decode("latin-1"))


def _form(coded: str) -> dict[str, str]:
    """Return the fields of a form, the last of each name; a name without `=` has no value.

    A value's bytes that are no UTF-8 stay, as surrogates.
    """
    fields = {}
    for pair in coded.split("&"):
        name, equals, value = pair.partition("=")
        if equals:
            fields[_decode(name, "strict")] = _decode(value, "surrogateescape")
    return fields


def _decode(coded: str, errors: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", coded):
        raise Refused(400, f"Invalid query parameters: invalid %-encoding ({coded})")
    try:
        # What came uncoded is bytes in Latin-1 here; coded bytes join them before UTF-8 is read.
        return unquote_plus(coded, encoding="latin-1").encode("latin-1").decode(errors=errors)
    except UnicodeDecodeError as error:
        raise Refused(400, f"Invalid query parameters: {_BAD_BYTES}") from error


def _to_integer(words: str) -> int:
    """Read a number as Ruby does: the digits in front, or else 0."""
    found = re.match(r"\s*([+-]?[0-9]{1,18})", words)
    return int(found.group(1)) if found else 0
