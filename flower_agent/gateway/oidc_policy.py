"""Which role somebody of an OpenID Connect provider has: ``FLOWER_OIDC_ALLOW``. Pure.

A rule is ``KIND:VALUE=ROLE``, as in ``domain:example.org=viewer``, ``mail:ann@example.org=admin``,
``group:ml-team=submitter`` or ``subject:1f3e=admin``. Of several that fit, the highest role counts.
"""

import dataclasses
import enum
from collections.abc import Iterable, Mapping

from flower_agent.gateway.control_methods import AccountRole

NAME_MAX = 128


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


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """Somebody, as a provider describes them."""

    subject: str
    mail: str = ""
    """Only one that the provider has verified; else empty."""

    groups: frozenset[str] = frozenset()

    @property
    def account(self) -> str:
        """How they are called here: by mail where it is known."""
        return (self.mail or self.subject)[:NAME_MAX]


def parse(text: str) -> tuple[AllowRule, ...]:
    """Return the rules of a text, separated by blanks or commas; raises ValueError."""
    return tuple(map(_rule, text.replace(",", " ").split()))


def _rule(word: str) -> AllowRule:
    who, equals, role = word.rpartition("=")
    kind, colon, value = who.partition(":")
    if not equals or not colon or not value or kind not in set(RuleKind):
        raise ValueError(
            f"{word!r} is no rule: want subject:, mail:, domain: or group:, then =ROLE, as in "
            "domain:example.org=viewer"
        )
    if role not in set(AccountRole):
        raise ValueError(f"{role!r} is no role: want {', '.join(AccountRole)}")
    caseless = kind in {RuleKind.MAIL, RuleKind.DOMAIN}
    return AllowRule(RuleKind(kind), value.lower() if caseless else value, AccountRole(role))


def identity(claims: Mapping[str, object], about: Mapping[str, object]) -> Identity:
    """Return who the ID token and the userinfo of one log-in describe; raises ValueError.

    Userinfo that is about somebody else counts for nothing (OpenID Connect Core, 5.3.2).
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise ValueError("the provider's ID token names nobody")
    if about and about.get("sub") != subject:
        raise ValueError("the provider's userinfo is about somebody else")
    said = {**claims, **about}
    mail, groups = said.get("email"), said.get("groups")
    verified = said.get("email_verified") in (True, "true")
    return Identity(
        subject,
        mail.lower() if isinstance(mail, str) and verified and "@" in mail else "",
        frozenset(map(str, groups)) if isinstance(groups, list) else frozenset(),
    )


def role(who: Identity, rules: Iterable[AllowRule]) -> AccountRole | None:
    """Return somebody's role; None lets them in nowhere."""
    order = list(AccountRole)
    fitting = [rule.role for rule in rules if _fits(who, rule)]
    return max(fitting, key=order.index, default=None)


def _fits(who: Identity, rule: AllowRule) -> bool:
    match rule.kind:
        case RuleKind.SUBJECT:
            return who.subject == rule.value
        case RuleKind.MAIL:
            return who.mail == rule.value
        case RuleKind.DOMAIN:
            return who.mail.rpartition("@")[2] == rule.value
        case RuleKind.GROUP:
            return rule.value in who.groups
