"""What a template's VMs would get: OpenNebula's syntax, and what oned and OneFlow change. Pure.

oned replaces ``$NAME`` in a CONTEXT (src/parsers/vm_var_parser.l); OneFlow replaces
``${ROLE.path}`` in a role's template_contents, which goes wrong over newlines, and hands each user
input to every role (src/flow/lib/models/role.rb, service.rb).

Syntax: OpenNebula src/parsers/template_parser.l and template_syntax.y. JSON: what ``onetemplate
show -j`` and ``oneflow-template show -j`` print, and what ``oneflow-template create`` takes.
"""

import dataclasses
import enum
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from flower_agent.config import names, settings
from flower_agent.model.errors import AgentError, Finding, warning

SIZE_LIMIT = 4 * 1024 * 1024

_SKIPPED = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+(?:\n|\Z))++")
_NAME = re.compile(r"[A-Za-z0-9_]+")
_EMPTY = re.compile(r"[ \t]*=[ \t]*\r?(?:\n|\Z)")
_EQUAL = re.compile(r"[ \t]*=[ \t]*")
_OPEN = re.compile(r"[ \t]*\[[ \t\r\n]*")
_COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_CLOSE = re.compile(r"[ \t\r\n]*\]")
_QUOTED = re.compile(r'"((?:\\"|[^"])*)"')
_BARE = re.compile(r"[^=#\s,\[\]]+")
_STRAY = re.compile(r"[^A-Za-z0-9_=,\[\]#\s]++")
"""What OpenNebula's lexer passes over in front of a name, a comma and a bracket."""


class TemplateKind(enum.StrEnum):
    """What a template is of."""

    VM = "vm"
    SERVICE = "service"


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """A template with its attributes; names of a VM's are in upper case."""

    kind: TemplateKind
    body: Mapping[str, Any]
    stray: str = ""
    """The first that OpenNebula passes over in silence, such as ``'"' at line 3``."""


def parse(text: str) -> Template:
    """Return what a template says. Raises AgentError ``template.malformed``."""
    if len(text) > SIZE_LIMIT:
        raise _malformed(f"has more than {SIZE_LIMIT} characters")
    if not text.lstrip().startswith(("{", "[")):
        return Template(TemplateKind.VM, *attributes(text))
    try:
        found = json.loads(text)
        body = _unwrapped(found)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise _malformed("is JSON, but not an object")
    if isinstance(body.get("roles"), list):
        return Template(TemplateKind.SERVICE, body)
    return Template(TemplateKind.VM, {str(name).upper(): value for name, value in body.items()})


def attributes(text: str) -> tuple[dict[str, Any], str]:
    """Return the attributes of OpenNebula's own syntax, and what it passes over first, if any.

    Of a name given twice the last counts, in a vector, which is a mapping, the first. All names
    are in upper case.
    """
    found: dict[str, Any] = {}
    strays: list[int] = []
    position = _skip(text, 0, strays)
    while position < len(text):
        name, position = _take(_NAME.match(text, position), text, position, "a name")
        if empty := _EMPTY.match(text, position):
            found[name.upper()], position = "", empty.end()
        else:
            _, position = _take(_EQUAL.match(text, position), text, position, "'=' after a name")
            found[name.upper()], position = _value(text, position, strays)
        position = _skip(text, position, strays)
    return found, f"{text[strays[0]]!r} at line {_line(text, strays[0])}" if strays else ""


def _value(text: str, position: int, strays: list[int]) -> tuple[Any, int]:
    opened = _OPEN.match(text, position)
    if opened is None:
        return _string(text, position)
    vector: dict[str, str] = {}
    position = _skip(text, opened.end(), strays)
    while not (closed := _CLOSE.match(text, position)):
        name, position = _take(_NAME.match(text, position), text, position, "a name or ']'")
        _, position = _take(_EQUAL.match(text, position), text, position, "'=' after a name")
        value, position = _string(text, position)
        vector.setdefault(name.upper(), value)
        behind, position = position, _skip(text, position, strays)
        if not _CLOSE.match(text, position):
            comma = _COMMA.match(text, position)
            _, position = _take(comma, text, behind, "',' or ']' after a value")
            position = _skip(text, position, strays)
    return vector, closed.end()


def _string(text: str, position: int) -> tuple[str, int]:
    if quoted := _QUOTED.match(text, position):
        return quoted[1].replace('\\"', '"'), quoted.end()
    return _take(_BARE.match(text, position), text, position, "a value")


def _take(match: re.Match[str] | None, text: str, position: int, want: str) -> tuple[str, int]:
    if match is None:
        raise _malformed(f"lacks {want} at line {_line(text, position)}")
    return match[0], match.end()


def _skip(text: str, position: int, strays: list[int]) -> int:
    """Return where the next token is; note the first place that belongs to none."""
    while True:
        match = _SKIPPED.match(text, position)
        position = match.end() if match else position
        stray = _STRAY.match(text, position)
        if stray is None:
            return position
        if not strays:
            strays.append(position)
        position = stray.end()


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _unwrapped(found: Any) -> Any:
    """Return the template inside what the CLI prints around it."""
    for wrap in _wraps(found):
        found = found[wrap]
        if wrap == "BODY" and isinstance(found, str):
            found = json.loads(found)
    return found


def _wraps(found: Any) -> Iterator[str]:
    for level in (("DOCUMENT", "VMTEMPLATE", "VM"), ("TEMPLATE",), ("BODY",)):
        wrap = next((n for n in level if isinstance(found, dict) and n in found), None)
        if wrap is not None:
            yield wrap
            found = found[wrap]


def _malformed(what: str) -> AgentError:
    return AgentError("template.malformed", f"the template {what}")


MEMORY_MIB = 1024
"""Flower's two containers take a quarter of it before any app computes."""

LAST = "\uffff"
"""The last character that OpenNebula's XML-RPC takes."""

_VARIABLE = re.compile(r"(?<!\\)\$(?:(\w+)(\[[^\[\]]*\])?)?")
_PARENT = re.compile(r"\$\{([^{}]*)\}")
_GIVEN = frozenset({
    "NAME", "UID", "UNAME", "GID", "GNAME", "VMID", "TEMPLATE_ID", "MEMORY", "CPU", "VCPU",
    "NETWORK", "USER", "GROUP", "IMAGE", "NIC", "DISK", "CLUSTER", "SERVICE_ID", "ROLE_NAME",
})  # fmt: skip
"""Known at deployment only; the last two are OneFlow's."""

_BASE64 = "Remove them. You can give keys and certificates as base64."


INPUTS = ("user_inputs", "custom_attrs")
VALUES = ("user_inputs_values", "custom_attrs_values")
"""Today's name, and that of OpenNebula 6."""

_NONE: Mapping[str, Template] = {}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """One kind of VM: a role of a service, or a template's own."""

    name: str
    """The role's; empty for a VM template."""

    count: int = 1
    variables: Mapping[str, str]
    """The context, as far as it is known."""

    later: frozenset[str] = frozenset()
    """Variables whose values are known at deployment only."""

    whole: bool
    """Nothing is merged in from a VM template that is not here."""

    findings: tuple[Finding, ...] = ()
    parents: tuple[str, ...] = ()


def guests(template: Template, bases: Mapping[str, Template] = _NONE) -> tuple[Guest, ...]:
    """Return the VMs that a template makes, in its order.

    `bases` are the VM templates that a service names, by their numbers, as far as they are here.
    """
    if template.kind is TemplateKind.VM:
        return (_vm(template),)
    return tuple(_role(role, template.body, bases) for role in template.body["roles"])


def faults(template: Template) -> Iterator[Finding]:
    """Yield the faults of a service template outside its contexts."""
    if template.kind is TemplateKind.VM:
        return
    roles = [role for role in template.body["roles"] if isinstance(role, dict)]
    given = [str(role.get("name", "")) for role in roles]
    for name in sorted({name for name in given if given.count(name) > 1}):
        yield Finding("template.role", f"two roles are named {name}")
    for role, name in zip(roles, given, strict=True):
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            message = f"the role {name!r} has a name that OneFlow refuses"
            yield Finding("template.role", message, "Use letters, digits and '_' only.")
        for parent in _parents(role):
            if parent not in given:
                message = (
                    f"role {name} waits for {parent}, which is not a role: OneFlow never deploys it"
                )
                yield Finding("template.role", message)
        yield from _sizes(role, name)
    if _in_a_circle(roles):
        yield Finding("template.role", "roles wait for each other: OneFlow deploys none of them")
    values = _first(template.body, VALUES)
    for name in sorted(set(_upper(_first(template.body, INPUTS))) - set(_upper(values))):
        if values is not None:
            message = (
                f"the input {name} has no value in user_inputs_values: OneFlow refuses the template"
            )
            yield Finding("template.value", message, 'Give the input a value, or "".')


def _vm(template: Template) -> Guest:
    body = template.body
    inputs = _upper(body.get("USER_INPUTS"))
    known: dict[str, str | None] = {n: v for n, v in body.items() if isinstance(v, str)}
    known |= {name: _default(str(text)) for name, text in inputs.items()}
    variables, later, findings = _substituted(_upper(body.get("CONTEXT")), known, whole=True)
    found = [*_passed_over(template.stray), *findings, *_lacks(body, variables)]
    return Guest(name="", variables=variables, later=later, whole=True, findings=tuple(found))


def _role(role: Any, service: Mapping[str, Any], bases: Mapping[str, Template]) -> Guest:
    if not isinstance(role, dict):
        found = (Finding("template.malformed", "a role is not an object"),)
        return Guest(name="?", variables={}, whole=False, findings=found)
    name, count = str(role.get("name", "")), role.get("cardinality", 0)
    guest = Guest(
        name=name,
        count=count if isinstance(count, int) else 0,
        variables={},
        whole=False,
        parents=_parents(role),
    )
    try:
        contents, stray = _contents(role)
    except AgentError as error:
        return dataclasses.replace(guest, findings=(error.finding,))
    number = str(role.get("template_id", role.get("vm_template", "")))
    base = bases.get(number)
    findings = [*_passed_over(stray), *_passed_over(base.stray if base else "")]
    body: Mapping[str, Any] = base.body if base else {}
    made = _merged(role, service, contents, body)
    findings += made.findings
    variables, later, more = _substituted(made.context, made.known, whole=base is not None)
    if base is not None:
        more += _lacks({**body, **contents}, variables)
    elif "TOKEN" not in made.context:
        message = f"its VM template {number}".rstrip() + " is not in this file and was not checked"
        hint = f"Add it with --vm-template {number or 'ID'}=FILE; its CONTEXT needs TOKEN=YES."
        findings.append(warning("template.context", message, hint))
    return dataclasses.replace(
        guest,
        variables=variables,
        later=later | made.later,
        whole=base is not None,
        findings=(*findings, *more),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Merged:
    """OneFlow's template for a VM of a role, as oned gets it."""

    context: Mapping[str, str]
    later: frozenset[str]
    """Names of the context that are known at deployment only."""

    known: Mapping[str, str | None]
    """The value of ``$NAME``; None: known only at deployment."""

    findings: tuple[Finding, ...]


def _merged(
    role: Mapping[str, Any],
    service: Mapping[str, Any],
    contents: Mapping[str, Any],
    base: Mapping[str, Any],
) -> _Merged:
    """Return the role's contents over its VM template, and the inputs over both."""
    parents, gated = _parents(role), service.get("ready_status_gate") is True
    findings: list[Finding] = []
    context: dict[str, str | None] = {n: str(v) for n, v in _upper(base.get("CONTEXT")).items()}
    for key, value in _upper(contents.get("CONTEXT")).items():
        context[key], more = _evaluated(key, str(value), parents, gated=gated)
        findings += more
    known: dict[str, str | None] = {n: v for n, v in base.items() if isinstance(v, str)}
    # Nobody is asked for the inputs of a VM template that a service uses.
    known |= dict.fromkeys(_upper(base.get("USER_INPUTS")), "")
    for key, value in contents.items():
        if not isinstance(value, dict | list):
            known[key], more = _evaluated(key, str(value), parents, gated=gated)
            findings += more
    roles = {str(r.get("name", "")) for r in service["roles"] if isinstance(r, dict)}
    for key, given in {**_inputs(service), **_inputs(role)}.items():
        known[key], more = _asked(key, given, parents, roles)
        findings += more
        context[key] = f"${key}"
    known["ROLE_NAME"] = str(role.get("name", ""))
    plain = {name: value for name, value in context.items() if value is not None}
    return _Merged(plain, frozenset(context.keys() - plain.keys()), known, tuple(findings))


def _asked(
    name: str, value: str | None, parents: tuple[str, ...], roles: Collection[str]
) -> tuple[str | None, list[Finding]]:
    """Change an input like OneFlow: one text for all roles, with any parents."""
    heads = [path.partition(".")[0] for path in _PARENT.findall(value or "")]
    if value is None or any(head in parents for head in heads):
        return None, []
    findings = []
    if any(head not in roles for head in heads):
        message = f"{name} has a ${{…}} that names no role: OneFlow removes it without a message"
        findings.append(warning("template.value", message, "Write the name without braces."))
    return _PARENT.sub("", value), findings


def _passed_over(stray: str) -> Iterator[Finding]:
    if stray:
        message = f"the template has a stray {stray}, which OpenNebula ignores"
        yield warning("template.malformed", message, "Take it out.")


def _substituted(
    context: Mapping[str, Any], known: Mapping[str, str | None], *, whole: bool
) -> tuple[dict[str, str], frozenset[str], list[Finding]]:
    """Change a context like oned; if not `whole`, names may come from another template."""
    ours = {row.name for row in settings.SETTINGS}
    variables: dict[str, str] = {}
    later: set[str] = set()
    findings: list[Finding] = []
    for name, value in ((name, str(value)) for name, value in context.items()):
        text, trouble = _expanded(value, known)
        if any("]]>" in told or max(told, default="") > LAST for told in (value, text or "")):
            trouble = f"{name} has characters that OpenNebula refuses (']]>', emoji)"
            findings.append(Finding("template.value", trouble, _BASE64))
        elif trouble and (text is None or (whole and name.removeprefix(names.PREFIX) in ours)):
            findings.append(Finding("template.value", f"{name} {trouble}"))
        elif trouble and not whole:
            message = f"{name} has a $NAME that is not in this file"
            findings.append(warning("template.value", message, "Give --vm-template."))
        elif trouble:
            findings.append(warning("template.value", f"{name} {trouble}"))
        if text is None:
            later.add(name)
        else:
            variables[name] = text.strip()
    return variables, frozenset(later), findings


def _expanded(value: str, known: Mapping[str, str | None]) -> tuple[str | None, str]:
    """Return the VM's text, None if not known yet, and the fault."""
    parts, position, trouble = [], 0, ""
    for match in _VARIABLE.finditer(value):
        parts.append(value[position : match.start()])
        position = match.end()
        if match[1] is None:
            return None, "has a '$' that OpenNebula cannot read: it does not create the VM"
        name = match[1].upper()
        if match[2] is not None or (name in _GIVEN and name not in known):
            return None, ""
        if name not in known:
            trouble = "has a $NAME that the template does not have: OpenNebula removes it"
            continue
        found = known[name]
        if found is None:
            return None, ""
        parts.append(found)
    return "".join([*parts, value[position:]]), trouble


def _evaluated(
    name: str, value: str, parents: tuple[str, ...], *, gated: bool
) -> tuple[str | None, list[Finding]]:
    """Change a role's value like OneFlow; None if it is known only at deployment."""
    findings: list[Finding] = []
    if "\n" in value.strip("\n"):
        message = f"{name} has several lines; OneFlow puts a comma at the end of each"
        findings.append(Finding("template.value", message, _BASE64))
    found = _PARENT.findall(value)
    for path in found:
        parent = path.partition(".")[0]
        if parent not in parents:
            message = f"{name} refers to a role that is not a parent: the value will be empty"
            findings.append(Finding("template.value", message, "Add that role to parents."))
        elif "user_template" in path.lower() and not gated:
            message = f"{name} refers to an attribute of another role, which may not exist yet"
            hint = "Set ready_status_gate to true."
            findings.append(warning("template.value", message, hint))
    return (None if found else value), findings


def _lacks(body: Mapping[str, Any], variables: Mapping[str, str]) -> Iterator[Finding]:
    if variables.get("TOKEN", "").upper() != "YES":
        message = "the CONTEXT has no TOKEN=YES: the VM cannot use OneGate"
        yield warning("template.context", message)
    if variables.get("NETWORK", "").upper() != "YES":
        message = "the CONTEXT has no NETWORK=YES: nothing configures the VM's network"
        yield warning("template.context", message)
    gpu = variables.get("GPU_ENABLED", variables.get("ONEAPP_GPU_ENABLED", "")).upper()
    if gpu in ("YES", "TRUE", "ON", "1") and "PCI" not in body:
        message = "GPU_ENABLED is YES, and the template passes no PCI device"
        yield warning("template.context", message, "Add PCI to the template: onehost show ID")
    memory = str(body.get("MEMORY", ""))
    if memory.isdigit() and int(memory) < MEMORY_MIB:
        message = f"MEMORY is {memory} MiB, of which 512 MiB are not for apps"
        yield warning("memory.low", message, f"Set MEMORY to {MEMORY_MIB} or more.")


def _contents(role: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return what a role adds to its VM template: an object, or text in the style of 6.x.

    Beside it what OpenNebula passes over. Raises AgentError ``template.malformed``.
    """
    found = role.get("template_contents") or role.get("vm_template_contents") or {}
    if isinstance(found, str):
        return attributes(found)
    return _upper(found), ""


def _inputs(place: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the user inputs with the values that they get without anybody's doing."""
    declared, given = _upper(_first(place, INPUTS)), _upper(_first(place, VALUES))
    found: dict[str, str | None] = {n: _default(str(text)) for n, text in declared.items()}
    return {**found, **{name: str(value) for name, value in given.items()}}


def _first(place: Mapping[str, Any], keys: Collection[str]) -> Any:
    return next((place[name] for name in keys if place.get(name) is not None), None)


def _default(definition: str) -> str | None:
    """Return the default of ``M|text|what it is|options|default``; None: somebody must say."""
    mandatory, *rest = definition.split("|", 4)
    default = rest[3] if len(rest) > 3 else ""  # noqa: PLR2004  # the fields before it
    return None if mandatory == "M" and not default else default


def _sizes(role: Mapping[str, Any], name: str) -> Iterator[Finding]:
    sizes = [role.get(key) for key in ("min_vms", "cardinality", "max_vms")]
    known = [size for size in sizes if isinstance(size, int)]
    if known != sorted(known):
        yield Finding("template.role", f"role {name} must have min_vms <= cardinality <= max_vms")


def _in_a_circle(roles: list[dict[str, Any]]) -> bool:
    waits = {str(r.get("name", "")): set(_parents(r)) for r in roles}
    while free := [name for name, parents in waits.items() if not parents & waits.keys()]:
        for name in free:
            del waits[name]
    return bool(waits)


def _parents(role: Mapping[str, Any]) -> tuple[str, ...]:
    found = role.get("parents")
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _upper(found: Any) -> dict[str, Any]:
    return {str(k).upper(): v for k, v in found.items()} if isinstance(found, dict) else {}
