"""What the VMs of a template would be given, and what OpenNebula does to it on the way. Pure.

oned replaces ``$NAME`` in a CONTEXT (src/parsers/vm_var_parser.l); OneFlow replaces
``${ROLE.path}`` in a role's template_contents, which goes wrong over newlines, and hands each user
input to every role (src/flow/lib/models/role.rb, service.rb).
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flower_agent.config import names, settings
from flower_agent.errors import Finding, warning

from . import onetemplate
from .onetemplate import Kind, Template

MEMORY_MIB = 1024
"""Flower's two containers take a quarter of it before any app computes."""

LAST = "\uffff"
"""The last character that OpenNebula's XML-RPC takes."""

_VARIABLE = re.compile(r"(?<!\\)\$(?:(\w+)(\[[^\[\]]*\])?)?")
_PARENT = re.compile(r"\$\{([^{}]*)\}")
_GIVEN_BY_ONED = frozenset({
    "NAME", "UID", "UNAME", "GID", "GNAME", "VMID", "TEMPLATE_ID", "MEMORY", "CPU", "VCPU",
    "NETWORK", "USER", "GROUP", "IMAGE", "NIC", "DISK", "CLUSTER",
})  # fmt: skip
_BASE64 = "Take them out; keys and certificates may be given as base64."


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
    if template.kind is Kind.VM:
        return (_vm(template.body),)
    return tuple(_role(role, template.body, bases) for role in template.body["roles"])


def faults(template: Template) -> Iterator[Finding]:
    """Yield what is wrong with a service template beside its contexts."""
    if template.kind is Kind.VM:
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
                message = f"role {name} waits for {parent}, which is no role: it is never deployed"
                yield Finding("template.role", message)
        yield from _sizes(role, name)
    if _in_a_circle(roles):
        yield Finding("template.role", "roles wait for each other: none of them is deployed")
    values = template.body.get("user_inputs_values")
    for name in sorted(set(_upper(template.body.get("user_inputs"))) - set(_upper(values))):
        if values is not None:
            message = f"the input {name} has no value in user_inputs_values: OneFlow refuses that"
            yield Finding("template.value", message, 'Give it one, or "".')


def _vm(body: Mapping[str, Any]) -> Guest:
    inputs = _upper(body.get("USER_INPUTS"))
    known: dict[str, str | None] = {n: v for n, v in body.items() if isinstance(v, str)}
    known |= {name: _default(str(text)) for name, text in inputs.items()}
    variables, later, findings = _substituted(_upper(body.get("CONTEXT")), known, whole=True)
    found = [*findings, *_lacks(body, variables)]
    return Guest(name="", variables=variables, later=later, whole=True, findings=tuple(found))


def _role(role: Any, service: Mapping[str, Any], bases: Mapping[str, Template]) -> Guest:
    if not isinstance(role, dict):
        found = (Finding("template.malformed", "a role is no object"),)
        return Guest(name="?", variables={}, whole=False, findings=found)
    name = str(role.get("name", ""))
    findings: list[Finding] = []
    contents = _contents(role)
    inputs = {**_inputs(service), **_inputs(role)}
    context = dict(inputs)
    parents = _parents(role)
    gated = service.get("ready_status_gate") is True
    for key, value in _upper(contents.get("CONTEXT")).items():
        context[key], more = _evaluated(key, str(value), parents, gated=gated)
        findings += more
    base = bases.get(str(role.get("template_id", role.get("vm_template", ""))))
    body, known = (base.body, _known(base.body, inputs)) if base else ({}, inputs)
    plain = {n: v for n, v in {**_upper(body.get("CONTEXT")), **context}.items() if v is not None}
    variables, later, more = _substituted(plain, known, whole=base is not None)
    later |= {n for n, v in context.items() if v is None}
    if base is not None:
        more += _lacks({**body, **contents}, variables)
    elif "TOKEN" not in context:
        message = "TOKEN=YES must stand in the CONTEXT of its VM template, for OneGate"
        findings.append(warning("template.context", message))
    count = role.get("cardinality", 0)
    return Guest(
        name=name,
        count=count if isinstance(count, int) else 0,
        variables=variables,
        later=later,
        whole=base is not None,
        findings=(*findings, *more),
        parents=parents,
    )


def _known(body: Mapping[str, Any], inputs: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return what ``$NAME`` stands for in a VM of a role: nobody is asked for its own inputs."""
    plain = {name: value for name, value in body.items() if isinstance(value, str)}
    return {**plain, **dict.fromkeys(_upper(body.get("USER_INPUTS")), ""), **inputs}


def _substituted(
    context: Mapping[str, Any], known: Mapping[str, str | None], *, whole: bool
) -> tuple[dict[str, str], frozenset[str], list[Finding]]:
    """Do to a context what oned does to it; not `whole`, names may come from elsewhere."""
    ours = {row.name for row in settings.SETTINGS}
    variables: dict[str, str] = {}
    later: set[str] = set()
    findings: list[Finding] = []
    for name, value in ((name, str(value)) for name, value in context.items()):
        text, trouble = _expanded(value, known)
        if "]]>" in value or any(letter > LAST for letter in value):
            trouble = f"{name} has characters that OpenNebula refuses (']]>', emoji)"
            findings.append(Finding("template.value", trouble, _BASE64))
        elif trouble and (text is None or (whole and name.removeprefix(names.PREFIX) in ours)):
            findings.append(Finding("template.value", f"{name} {trouble}"))
        elif trouble:
            findings.append(warning("template.value", f"{name} {trouble}"))
        if text is None:
            later.add(name)
        else:
            variables[name] = text.strip()
    return variables, frozenset(later), findings


def _expanded(value: str, known: Mapping[str, str | None]) -> tuple[str | None, str]:
    """Return the text that a VM gets, None where that is not known yet, and what goes wrong."""
    parts, position, trouble = [], 0, ""
    for match in _VARIABLE.finditer(value):
        parts.append(value[position : match.start()])
        position = match.end()
        if match[1] is None:
            return None, "has a '$' that OpenNebula cannot read: it makes no such VM"
        name = match[1].upper()
        if match[2] is not None or (name in _GIVEN_BY_ONED and name not in known):
            return None, ""
        if name not in known:
            trouble = "has a $NAME that the template does not have: it is left out"
            continue
        found = known[name]
        if found is None:
            return None, ""
        parts.append(found)
    return "".join([*parts, value[position:]]), trouble


def _evaluated(
    name: str, value: str, parents: tuple[str, ...], *, gated: bool
) -> tuple[str | None, list[Finding]]:
    """Do to a role's value what OneFlow does to it; None where it is known at deployment only."""
    findings: list[Finding] = []
    if "\n" in value.strip("\n"):
        message = f"{name} has several lines; OneFlow puts a comma at the end of each"
        findings.append(Finding("template.value", message, _BASE64))
    found = _PARENT.findall(value)
    for path in found:
        parent = path.partition(".")[0]
        if parent not in parents:
            message = f"{name} asks for an attribute of a role that is no parent: it will be empty"
            findings.append(Finding("template.value", message, "Add that role to parents."))
        elif "user_template" in path.lower() and not gated:
            message = f"{name} asks for what the other role publishes, which may not be there yet"
            hint = "Set ready_status_gate to true."
            findings.append(warning("template.value", message, hint))
    return (None if found else value), findings


def _lacks(body: Mapping[str, Any], variables: Mapping[str, str]) -> Iterator[Finding]:
    if variables.get("TOKEN", "").upper() != "YES":
        message = "the CONTEXT has no TOKEN=YES: the VM cannot speak to OneGate"
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
        message = f"MEMORY is {memory} MiB, of which 512 MiB are kept from apps"
        yield warning("memory.low", message, f"Give it {MEMORY_MIB} or more.")


def _contents(role: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a role adds to its VM template: an object, or text in the style of 6.x."""
    found = role.get("template_contents") or role.get("vm_template_contents") or {}
    if isinstance(found, str):
        return onetemplate.attributes(found)
    return _upper(found)


def _inputs(place: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the user inputs with the values that they get without anybody's doing."""
    declared, given = _upper(place.get("user_inputs")), _upper(place.get("user_inputs_values"))
    found: dict[str, str | None] = {n: _default(str(text)) for n, text in declared.items()}
    return {**found, **{name: str(value) for name, value in given.items()}}


def _default(definition: str) -> str | None:
    """Return the default of ``M|text|what it is|options|default``; None: somebody must say."""
    mandatory, *rest = definition.split("|", 4)
    default = rest[3] if len(rest) > 3 else ""  # noqa: PLR2004  # the fields before it
    return None if mandatory == "M" and not default else default


def _sizes(role: Mapping[str, Any], name: str) -> Iterator[Finding]:
    sizes = [role.get(key) for key in ("min_vms", "cardinality", "max_vms")]
    known = [size for size in sizes if isinstance(size, int)]
    if known != sorted(known):
        yield Finding("template.role", f"role {name} has not min_vms <= cardinality <= max_vms")


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
