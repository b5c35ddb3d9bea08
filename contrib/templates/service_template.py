"""The OneFlow service template of OpenNebula 7: one SuperLink, then SuperNodes. Pure.

The gate opens on READY=YES alone, so the SuperNodes' VMs are made when the SuperLink works; role
names are words without a hyphen (src/oca/ruby/opennebula/flow/service_template.rb). OneFlow
averages FLOWER_BUSY over the role's running VMs (src/flow/lib/grammar.treetop).
"""

from collections.abc import Mapping
from typing import Any

import user_inputs

NETWORK = "Federation"
"""What the network is called in the service template."""

NAME = "Flower"
ROLES = {"superlink": "superlink", "supernode": "supernode"}
"""Role to the kind of its VM template."""

SUPERNODES, SUPERNODES_MOST = 2, 10
PERIOD_S = 90
"""How often OneFlow looks (``:autoscaler_interval:``): a shorter period would be this long, too."""

GROWS_AFTER, SHRINKS_AFTER = 4, 20
"""Looks in a row."""


def service(
    template_ids: Mapping[str, int] | None = None,
    network_id: int | None = None,
    *,
    elastic: bool = False,
) -> dict[str, Any]:
    """Return the service template.

    `template_ids` gives OpenNebula's number of the VM template of each role. Without it the roles
    have none, as the Marketplace wants, which adds them when it exports the service. `network_id`
    is the network that is taken where none is chosen. `elastic` lets OneFlow change the number of
    SuperNodes by itself.
    """
    network = "" if network_id is None else str(network_id)
    rows = user_inputs.offered_in_a_service()
    superlink: dict[str, Any] = {"cardinality": 1, "min_vms": 1, "max_vms": 1}
    supernode: dict[str, Any] = {
        "parents": ["superlink"],
        "cardinality": SUPERNODES,
        "min_vms": SUPERNODES,
        "max_vms": SUPERNODES_MOST,
        "cooldown": 300,
    }
    if elastic:
        supernode["elasticity_policies"] = [
            _policy(1, "FLOWER_BUSY > 0.9", GROWS_AFTER),
            _policy(-1, "FLOWER_BUSY < 0.1", SHRINKS_AFTER),
        ]
    roles = {"superlink": superlink, "supernode": supernode}
    return {
        "name": NAME,
        "description": "A Flower federation: one SuperLink and SuperNodes that find it.",
        "deployment": "straight",
        "ready_status_gate": True,
        "shutdown_action": "terminate",
        "networks": {NETWORK: f"M|network|Network of the federation||id:{network}"},
        "user_inputs": user_inputs.inputs(rows),
        "user_inputs_metadata": user_inputs.metadata(rows),
        "roles": [_role(name, more, template_ids) for name, more in roles.items()],
    }


def _role(
    name: str, more: Mapping[str, Any], template_ids: Mapping[str, int] | None
) -> dict[str, Any]:
    made = {"name": name, "type": "vm"}
    known = {} if template_ids is None else {"template_id": template_ids[name]}
    nic = {"NAME": "NIC0", "NETWORK_ID": f"${NETWORK}"}
    return {**made, **known, **more, "template_contents": {"NIC": [nic]}}


def _policy(adjust: int, expression: str, periods: int) -> dict[str, Any]:
    return {
        "type": "CHANGE",
        "adjust": adjust,
        "expression": expression,
        "period": PERIOD_S,
        "period_number": periods,
    }


def values(template: Mapping[str, Any], network_id: int | None = None) -> dict[str, Any]:
    """Return what `oneflow-template instantiate` takes: every input, since each must have a value.

    An empty one leaves the VM at its image's default. Without its network a service makes VMs that
    have none.
    """
    found = {
        "name": template["name"],
        "user_inputs_values": dict.fromkeys(template["user_inputs"], ""),
    }
    if network_id is not None:
        found["networks_values"] = [{NETWORK: {"id": str(network_id)}}]
    return found
