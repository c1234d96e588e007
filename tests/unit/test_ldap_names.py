"""Names in filters and names of entries, and what a helper's child says."""

from __future__ import annotations

import json
from contextlib import suppress

import ldap.dn
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.auth.ldap.directory import DirectoryFailure, Found, read_answer
from containerssh.auth.ldap.names import UnusableNameError, in_filter, normal_dn, to_bind
from containerssh.core.errors import AuthFailed

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20) | st.text("*()\\&|!=,+#;<> \0ab{}")


@given(NAMES)
def test_a_name_in_a_filter_brings_nothing_that_means_something(name: str) -> None:
    made = in_filter("(&(uid={username})(x={dn}))", {"username": name, "dn": "cn={username}"})
    value = made.removeprefix("(&(uid=").removesuffix(")(x=cn={username}))")
    assert not set("*()\0") & set(value)
    assert made.count("(") == made.count(")") == 3
    read = ldap.filter.escape_filter_chars(name)
    assert value == read


@given(NAMES.filter(bool))
def test_a_name_in_the_name_of_an_entry_is_one_value(name: str) -> None:
    made = to_bind("uid={username},ou=people,dc=x", name)
    parts = [[(kind, value) for kind, value, _ in rdn] for rdn in ldap.dn.str2dn(made)]
    assert parts == [[("uid", name)], [("ou", "people")], [("dc", "x")]]


@given(NAMES)
def test_a_name_before_a_domain_names_no_other_one(name: str) -> None:
    with suppress(UnusableNameError):
        made = to_bind("{username}@corp.test", name)
        assert made.count("@") == 1
        assert not set('\\/"\0 ') & set(made)


def test_two_spellings_of_an_entrys_name_are_equal() -> None:
    names = ("cn=A b,dc=X", "CN=a B , DC=x", "cn=a   b,dc=x", "cn=a\\20b,dc=x")
    assert len({normal_dn(name) for name in names}) == 1
    assert normal_dn("cn=a+sn=b,dc=x") == normal_dn("SN=b+CN=a,dc=x")
    assert len({normal_dn(name) for name in ("cn=a,dc=x", "cn=a,dc=y", "cn=a\\,dc\\=x", "cn=a", "sn=a,dc=x")}) == 5
    for wrong in ("cn", "=,", "cn=a,,"):
        with pytest.raises(ValueError, match="not a name"):
            normal_dn(wrong)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["ok", "dn", "names", "groups", "attributes", "refused", "passing"]), inner)
    ),
    max_leaves=10,
)


@given(VALUES)
def test_any_answer_of_a_child_is_one_or_no_judgement(value: object) -> None:
    with suppress(AuthFailed, DirectoryFailure):
        found = read_answer(json.loads(json.dumps(value)))
        assert isinstance(found, Found)


@pytest.mark.parametrize(
    "attributes", [{"a": ["="]}, {"a": [5]}, {"a": 5}, {"a": ["\u00e9"]}, {"a": None}, {"a": [["YQ=="]]}]
)
def test_attributes_that_are_none_are_no_judgement(attributes: object) -> None:
    answer = {"ok": {"dn": "cn=a", "names": ["a"], "groups": [], "attributes": attributes}}
    with pytest.raises(DirectoryFailure):
        read_answer(answer)
