"""Roles of people, and ``FLOWER_OIDC_ALLOW``: which of them somebody of a provider has. Pure.

A rule is ``KIND:VALUE=ROLE``, as in ``domain:example.org=viewer``, ``mail:ann@example.org=admin``,
``group:ml-team=submitter`` or ``subject:1f3e=admin``; blanks and commas in a value are written
``%20`` and ``%2C``. Of several that fit, the highest role counts.
"""

import dataclasses
import enum
import urllib.parse


class AccountRole(enum.StrEnum):
    """What an account may do; each role may also do what those before it may."""

    VIEWER = "viewer"
    """Lists and reads."""

    SUBMITTER = "submitter"
    """Runs, stops its own runs, and pulls their outputs."""

    ADMIN = "admin"
    """Everything that is offered, and with every run."""

    def may(self, wanted: "AccountRole") -> bool:
        """Return whether it includes another role."""
        order = list(AccountRole)
        return order.index(self) >= order.index(wanted)


class RuleKind(enum.StrEnum):
    """What a rule looks at."""

    SUBJECT = "subject"
    MAIL = "mail"
    DOMAIN = "domain"
    GROUP = "group"


@dataclasses.dataclass(frozen=True, slots=True)
class AllowRule:
    """Who gets a role."""

    kind: RuleKind
    value: str
    role: AccountRole

    def __str__(self) -> str:
        return f"{self.kind}:{urllib.parse.quote(self.value)}={self.role}"


def parse_rules(text: str) -> tuple[AllowRule, ...]:
    """Return the rules of a text, separated by blanks or commas; raises ValueError."""
    return tuple(map(_rule, text.replace(",", " ").split()))


def _rule(word: str) -> AllowRule:
    who, _, role = word.rpartition("=")
    kind, _, value = who.partition(":")
    if kind not in set(RuleKind) or not value:
        raise ValueError(
            "want rules that begin with subject:, mail:, domain: or group: and end in =ROLE, as in "
            "domain:example.org=viewer"
        )
    if role not in set(AccountRole):
        raise ValueError(f"want one of the roles {', '.join(AccountRole)} at each rule's end")
    value = urllib.parse.unquote(value)
    caseless = kind in {RuleKind.MAIL, RuleKind.DOMAIN}
    return AllowRule(RuleKind(kind), value.lower() if caseless else value, AccountRole(role))
