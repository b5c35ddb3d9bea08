"""Which role somebody of a provider gets."""

import pytest

from flower_agent.config import account_roles
from flower_agent.config.account_roles import AccountRole
from flower_agent.gateway import oidc_policy
from flower_agent.gateway.oidc_policy import Identity

VIEWER, SUBMITTER, ADMIN = AccountRole
ANN = Identity("1f3e", "ann@example.org", frozenset({"ml-team", "staff"}))


@pytest.mark.parametrize(
    ("rules", "role"),
    [
        ("", None),
        ("domain:example.org=viewer", VIEWER),
        ("domain:Example.ORG=viewer", VIEWER),
        ("mail:ann@example.org=admin, domain:example.org=viewer", ADMIN),
        ("domain:example.org=viewer group:ml-team=submitter", SUBMITTER),
        ("subject:1f3e=admin", ADMIN),
        ("domain:ample.org=viewer", None),
        ("domain:org=viewer", None),
        ("mail:ann=admin", None),
        ("group:ml=admin", None),
        ("subject:1F3E=admin", None),
        ("group:staff%2Ca%20b=admin group:staff=viewer", VIEWER),
    ],
)
def test_the_highest_role_of_the_rules_that_fit(rules, role):
    assert oidc_policy.role(ANN, account_roles.parse_rules(rules)) is role


def test_nobody_without_a_mail_is_of_a_domain():
    rules = account_roles.parse_rules("domain:example.org=viewer")
    assert oidc_policy.role(Identity("example.org"), rules) is None
    assert oidc_policy.role(Identity("x@example.org"), rules) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("example.org=viewer", "begin with"),
        ("domain:=viewer", "begin with"),
        ("domain:example.org", "begin with"),
        ("group:a b=viewer", "begin with"),
        ("realm:example.org=viewer", "begin with"),
        ("domain:example.org=owner", "one of the roles"),
    ],
)
def test_a_bad_rule_is_named(text, words):
    with pytest.raises(ValueError, match=words):
        account_roles.parse_rules(text)


@pytest.mark.parametrize(
    ("about", "mail"),
    [
        ({}, ""),
        ({"sub": "1", "email": "Ann@Example.org", "email_verified": True}, "ann@example.org"),
        ({"sub": "1", "email": "ann@example.org"}, ""),
        ({"sub": "1", "email": "ann@example.org", "email_verified": False}, ""),
        ({"sub": "1", "email": ["ann@example.org"], "email_verified": True}, ""),
        ({"sub": "1", "email": "ann", "email_verified": True}, ""),
    ],
)
def test_only_a_verified_mail_counts(about, mail):
    assert oidc_policy.identity({"sub": "1"}, about).mail == mail


@pytest.mark.parametrize("claims", [{}, {"sub": ""}, {"sub": 7}])
def test_an_id_token_without_a_subject_is_refused(claims):
    with pytest.raises(ValueError, match="nobody"):
        oidc_policy.identity(claims, {})


def test_userinfo_about_somebody_else_is_refused():
    with pytest.raises(ValueError, match="somebody else"):
        oidc_policy.identity({"sub": "1"}, {"sub": "2", "groups": ["admins"]})


def test_a_rule_is_written_as_it_is_read():
    rules = account_roles.parse_rules("group:a%20b%2Cc=viewer mail:ann@example.org=admin")
    assert [rule.value for rule in rules] == ["a b,c", "ann@example.org"]
    assert account_roles.parse_rules(" ".join(map(str, rules))) == rules


def test_nobody_of_a_provider_has_the_name_of_a_local_account():
    assert Identity("admin").account == "subject:admin"
    assert ANN.account == "ann@example.org"
