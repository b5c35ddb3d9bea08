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
        value = self.headers.get("x-onegate-vmid", "").strip()
        return int(value) if value.isascii() and value.isdecimal() else None


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
        case "GET", [""]:
            _source(cloud, call)
            base = f"http://{call.headers.get('host', '')}"
            return as_json(200, {"vm_info": f"{base}/vm", "service_info": f"{base}/service"})
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
            raise Refused(400, "OneGate server doesn't support this feature")


def _source(cloud: Cloud, call: Call) -> Machine:
    return cloud.authenticate(call.vmid, call.headers.get("x-onegate-token"))


def _is_form(call: Call) -> bool:
    return call.headers.get("content-type", "").partition(";")[0].strip().lower() == _FORM


def _attributes(call: Call, params: Mapping[str, str]) -> tuple[str, int]:
    """Return the text of an update and its type: form fields, or else the body as it is."""
    kind = _to_integer(params["type"]) if "type" in params else APPEND
    if "data" in params:
        return params["data"], kind
    if len(call.body) > _FORM_LIMIT:  # the real one's limit for raw bodies is not known
        raise Refused(500, "Internal server error")
    try:
        return call.body.decode(), kind
    except UnicodeDecodeError as error:
        raise Refused(500, "Internal server error") from error


def _form_body(body: bytes) -> dict[str, str]:
    if len(body) > _FORM_LIMIT:
        raise Refused(500, f"total query size exceeds limit ({_FORM_LIMIT})")
    return _form(body.decode("latin-1"))


def _form(coded: str) -> dict[str, str]:
    """Return the fields of a form, the last of each name; a name without `=` has no value."""
    fields = {}
    for pair in coded.split("&"):
        name, equals, value = pair.partition("=")
        if equals:
            fields[_decode(name)] = _decode(value)
    return fields


def _decode(coded: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", coded):
        raise Refused(400, f"Invalid query parameters: invalid %-encoding ({coded})")
    try:
        # What came uncoded is bytes in Latin-1 here; coded bytes join them before UTF-8 is read.
        return unquote_plus(coded, encoding="latin-1").encode("latin-1").decode()
    except UnicodeDecodeError as error:
        raise Refused(400, "Invalid query parameters: invalid byte sequence in UTF-8") from error


def _to_integer(words: str) -> int:
    """Read a number as Ruby does: the digits in front, or else 0."""
    found = re.match(r"\s*([+-]?[0-9]{1,18})", words)
    return int(found.group(1)) if found else 0
