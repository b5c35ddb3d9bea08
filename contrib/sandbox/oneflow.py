"""What OneFlow and oned make of a service template: the VMs of a role and their CONTEXT.

Steps as in OpenNebula 7.4: OneFlow refuses what is not whole (`check`), puts the inputs and
networks into each role (`contents`), merges that over the VM template and writes it as text
(`raw`), where a newline in a vector becomes ``,`` and newline and every ``${…}`` is a parent's
attribute or nothing; oned reads the text with its grammar and replaces ``$NAME`` in the CONTEXT
(`boot`). Facts: src/flow/oneflow-server.rb, src/flow/lib/models/{service,role}.rb,
src/oca/ruby/opennebula/flow/{validator,service_template}.rb, src/parsers/vm_var_parser.l.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onegate_template as template

Template = dict[str, Any]

RESTRICTED = {
    "PCI": None,
    "TOPOLOGY": {"PIN_POLICY", "HUGEPAGE_SIZE"},
    "CONTEXT": {"FILES"},
    "RAW": {"DATA"},
}
"""What only oneadmin may set (share/etc/oned.conf), as far as templates of ours could have it."""

CAPACITY = frozenset(
    re.findall(
        r"\w+",
        "CONTEXT CPU CPU_MODEL DISK FEATURES GRAPHICS MEMORY NAME NIC NIC_DEFAULT NUMA_NODE OS PCI"
        " TOPOLOGY VCPU",
    )
)
"""What stands in a VM's TEMPLATE; everything else is its USER_TEMPLATE."""

_EXPRESSION = re.compile(
    r" *(-?\d+(\.\d+)?|[A-Za-z]\w*) *(==|=|!=|<>|>=|>|<=|<) *(-?\d+(\.\d+)?|[A-Za-z]\w*) *",
    re.ASCII,
)
_VARIABLE = re.compile(r"\$(\w*)(?:\[ *(\w+) *\])?", re.ASCII)


BEYOND = 0xFFFF
"""The last letter that oned and OneFlow take."""


class Refused(Exception):  # noqa: N818 - an answer that OpenNebula gives
    """OneFlow or oned does not take it, with the text of its answer."""


@dataclass(frozen=True, slots=True)
class Booted:
    """A VM as oned made it."""

    context: Mapping[str, str]
    """Its CONTEXT, without what the network, the token and the CD add."""

    attributes: template.Attributes
    """Its USER_TEMPLATE."""

    nics: tuple[Mapping[str, str], ...]


def check(service: Mapping[str, Any], values: Mapping[str, str]) -> None:
    """Raise Refused where OneFlow does not take the service template or its values.

    A letter beyond U+FFFF, as emoji are, is refused before any VM is made; the words are not the
    real one's.
    """
    for what, text in (("name", str(service.get("name", ""))), *values.items()):
        if any(ord(letter) > BEYOND for letter in text):
            raise Refused(f"{what} has a character that the database does not take: {text!r}")
    if set(service.get("user_inputs", {})) - set(values):
        raise Refused("Verify that every User Input have its corresponding value defined")
    names = [role["name"] for role in service["roles"]]
    for role in service["roles"]:
        if not re.fullmatch(r"\w+", role["name"], re.ASCII):
            raise Refused(r"KEY: 'name' must match regexp /^\w+$/;")
        if names.count(role["name"]) > 1:
            raise Refused(f"Role name '{role['name']}' is repeated")
        if not isinstance(role.get("template_id"), int):
            raise Refused(f"Mandatory document key 'template_id (integer)' is missing from {role}")
        if not set(role.get("parents", ())) <= set(names):
            raise Refused(f"{role['name']} would never be deployed: it waits for no role")
        _check_scaling(role)


def contents(
    service: Mapping[str, Any], values: Mapping[str, str], networks: Mapping[str, str]
) -> dict[str, Template]:
    """Return the template_contents of each role, with inputs and networks put in."""
    found = {}
    for role in service["roles"]:
        made: Template = copy.deepcopy(role.get("template_contents", {}))
        for nic in made.get("NIC", []):
            name = str(nic.get("NETWORK_ID", "")).removeprefix("$")
            nic["NETWORK_ID"] = networks.get(name, nic.get("NETWORK_ID"))
        if values:
            made |= values
            made.setdefault("CONTEXT", {}).update({key: f"${key}" for key in values})
        found[role["name"]] = made
    return found


def raw(
    vm_template: Template,
    more: Template,
    parent: Callable[[str], str | None] = lambda _: None,
) -> str:
    """Return the text with which OneFlow asks oned for a VM.

    `parent` gives the value of ``role.path.to.attribute``, None for what there is not.
    """
    for name, keys in RESTRICTED.items():
        held = more.get(name)
        if held is not None and (keys is None or keys & set(held)):
            raise Refused(f"VM Template includes a restricted attribute {name}")
    text = _raw(merged(vm_template, more))
    return re.sub(r"\$\{(.*?)\}", lambda found: parent(found[1]) or "", text)


def boot(text: str, *, name: str, user: Mapping[str, str] | None = None) -> Booted:
    """Return the VM that oned makes of a template's text. Raises Refused."""
    try:
        found = template.merge({}, template.parse(text))
    except template.TemplateError as error:
        raise Refused(f"Parse error: {error}") from error
    context = found.get("CONTEXT", {})
    if not isinstance(context, dict):
        raise Refused("more than one CONTEXT")
    known = {key.upper(): held for key, held in found.items() if isinstance(held, str)}
    known["NAME"] = name
    nics = found.get("NIC", [])
    return Booted(
        context={key: substituted(held, known, user or {}) for key, held in context.items()},
        attributes={key: held for key, held in found.items() if key not in CAPACITY},
        nics=tuple(nic for nic in (nics if isinstance(nics, list) else [nics]) if nic != ""),  # type: ignore[misc]  # a NIC is a vector
    )


def substituted(text: str, known: Mapping[str, str], user: Mapping[str, str]) -> str:
    """Return a CONTEXT value as oned leaves it. Raises Refused where it makes no VM."""

    def value(found: re.Match[str]) -> str:
        name, key = found[1].upper(), found[2]
        if not name or (key and name != "USER"):
            raise Refused("Parse error: syntax error, unexpected EOA")
        return user.get(key.upper(), "") if key else known.get(name, "")

    parts = re.split(r"(\\\$)", text)
    return "".join(p if p == r"\$" else _VARIABLE.sub(value, p) for p in parts).strip()


def merged(base: Template, more: Template) -> Template:
    """Return `more` over `base`: vectors are merged, lists replaced."""
    found = dict(base)
    for key, value in more.items():
        held = found.get(key)
        both = isinstance(value, dict) and isinstance(held, dict)
        found[key] = merged(held, value) if both else value  # type: ignore[arg-type]  # both dicts
    return found


def _raw(held: Mapping[str, Any]) -> str:
    lines = ""
    for key, value in held.items():
        if isinstance(value, Mapping):
            lines += f"{key} = [\n" + _raw(value).rstrip("\n").replace("\n", ",\n") + "\n]\n"
        elif isinstance(value, Sequence) and not isinstance(value, str):
            lines += "".join(_raw({key: element}) for element in value)
        else:
            quoted = str(value).replace('"', '\\"')
            lines += f'{key} = "{quoted}"\n'
    return lines


def _check_scaling(role: Mapping[str, Any]) -> None:
    name, cardinality = role["name"], role.get("cardinality", 0)
    least, most = role.get("min_vms"), role.get("max_vms")
    if least is not None and least > cardinality:
        raise Refused(f"Role '{name}' 'cardinality' must be greater than or equal to 'min_vms'")
    if most is not None and most < cardinality:
        raise Refused(f"Role '{name}' 'cardinality' must be lower than or equal to 'max_vms'")
    policies = role.get("elasticity_policies", [])
    if policies and None in (least, most):
        raise Refused(f"Role '{name}' must define both 'min_vms' and 'max_vms'")
    for policy in policies:
        if not _EXPRESSION.fullmatch(policy["expression"]):
            raise Refused(f"Role '{name}', elasticity policy 'expression' parse error")
