"""Who somebody is by an OpenID Connect provider, and which role that gives. Pure."""

import dataclasses
from collections.abc import Iterable, Mapping

from flower_agent.config.account_roles import AccountRole, AllowRule, RuleKind

NAME_MAX = 128


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """Somebody, as a provider describes them."""

    subject: str
    mail: str = ""
    """Only one that the provider has verified; else empty."""

    groups: frozenset[str] = frozenset()

    @property
    def account(self) -> str:
        """How they are called here: by mail, or by a name that no local account can have."""
        return (self.mail or f"{RuleKind.SUBJECT}:{self.subject}")[:NAME_MAX]


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
