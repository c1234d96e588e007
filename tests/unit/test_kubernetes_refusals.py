"""What users and the log are told of the API's refusals. The sentences are those of Kubernetes 1.37."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.kubernetes import refusals
from containerssh.backends.kubernetes.errors import refusal
from containerssh.backends.kubernetes.launch import PodError, refused
from containerssh.core.codes import KubernetesCode

WORDS = {value for name, value in vars(refusals).items() if name.isupper() and not name.startswith("_")}
# Names that an owner may choose: they say nothing about the refusal.
PLACE = "quota-policy-admission-podsecurity"
RBAC = f'User "system:serviceaccount:{PLACE}:x" cannot %s resource "pods" in API group "" in the namespace "{PLACE}"'
VIOLATIONS = 'violates PodSecurity "restricted:latest": ' + ", ".join(
    f'allowPrivilegeEscalation != false (container "c{number}" must set securityContext.allowPrivilegeEscalation=false)'
    for number in range(20)
)


def said(status: int, message: str, reason: str = "Forbidden", **details: Any) -> PodError:
    body = {"kind": "Status", "status": "Failure", "message": message, "reason": reason, "details": details}
    return refused(refusal("creating the pod", status, json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("status", "reason", "message", "user", "code"),
    [
        (401, "Unauthorized", "Unauthorized", refusals.UNKNOWN_SERVER, KubernetesCode.API_REFUSED),
        (403, "Forbidden", f"pods is forbidden: {RBAC % 'create'}", refusals.NO_RIGHTS, KubernetesCode.API_REFUSED),
        (403, "Forbidden", f'pods "p" is forbidden: {RBAC % "get"}', refusals.NO_RIGHTS, KubernetesCode.API_REFUSED),
        (404, "NotFound", f'namespaces "{PLACE}" not found', refusals.NO_NAMESPACE, KubernetesCode.API_REFUSED),
        (
            403,
            "Forbidden",
            f'pods "p" is forbidden: unable to create new content in namespace {PLACE} because it is being terminated',
            refusals.LEAVING_NAMESPACE,
            KubernetesCode.API_REFUSED,
        ),
        (
            403,
            "Forbidden",
            'pods "p" is forbidden: exceeded quota: policy, requested: pods=1, used: pods=5, limited: pods=5',
            refusals.QUOTA,
            KubernetesCode.POD_CREATE_FAILED,
        ),
        (
            403,
            "Forbidden",
            'pods "p" is forbidden: failed quota: guests: must specify limits.cpu for: shell',
            refusals.POLICY,
            KubernetesCode.POD_CREATE_FAILED,
        ),
        (403, "Forbidden", f'pods "p" is forbidden: {VIOLATIONS}', refusals.POLICY, KubernetesCode.POD_CREATE_FAILED),
        (
            403,
            "Forbidden",
            'pods "p" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi',
            refusals.POLICY,
            KubernetesCode.POD_CREATE_FAILED,
        ),
        (
            400,
            "",
            'admission webhook "quota.example.com" denied the request: exceeded quota: ours',
            refusals.POLICY,
            KubernetesCode.POD_CREATE_FAILED,
        ),
        (
            422,
            "Invalid",
            "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'one' with binding 'two' denied request: no",
            refusals.POLICY,
            KubernetesCode.POD_CREATE_FAILED,
        ),
        (
            403,
            "Forbidden",
            'pods "p" is forbidden: error looking up service account lab/quota: serviceaccount "quota" not found',
            refusals.REFUSED,
            KubernetesCode.POD_CREATE_FAILED,
        ),
        (
            422,
            "Invalid",
            'Pod "p" is invalid: spec.containers[0]: Required value: pods "p" is forbidden: exceeded quota: x',
            refusals.REFUSED,
            KubernetesCode.POD_CREATE_FAILED,
        ),
        (409, "AlreadyExists", 'pods "quota" already exists', refusals.TAKEN, KubernetesCode.POD_CREATE_FAILED),
    ],
)
def test_a_refusal_is_told_by_who_can_act_on_it_whatever_names_it_has(
    status: int, reason: str, message: str, user: str, code: KubernetesCode
) -> None:
    error = said(status, message, reason)
    assert (error.user_message, error.code) == (user, code)
    assert error.explanation == f"creating the pod: {message}"


def test_a_namespace_that_is_being_deleted_is_recognised_by_its_cause() -> None:
    causes = [{"reason": "NamespaceTerminating", "message": "namespace lab is being terminated"}]
    assert said(403, "in other words", causes=causes).user_message == refusals.LEAVING_NAMESPACE


@pytest.mark.parametrize("body", [b"<html>Forbidden</html>", b"quota exceeded by policy", b"", b"{}"])
def test_what_a_proxy_says_is_not_taken_for_the_apis_words(body: bytes) -> None:
    assert refused(refusal("creating the pod", 403, body)).user_message == refusals.REFUSED
    assert refused(refusal("creating the pod", 401, body)).user_message == refusals.UNKNOWN_SERVER


@pytest.mark.parametrize(
    ("status", "reason", "message", "passes"),
    [
        (409, "Conflict", 'Operation cannot be fulfilled on resourcequotas "guests": it has been modified', True),
        (403, "Forbidden", 'pods "p" is forbidden: not yet ready to handle request', True),
        (500, "InternalError", "Internal error occurred: failed calling webhook", True),
        (403, "Forbidden", 'pods "p" is forbidden: exceeded quota: not yet ready to handle request', False),
        (409, "AlreadyExists", 'pods "p" already exists', False),
        (422, "Invalid", "not yet ready to handle request", False),
    ],
)
def test_a_refusal_that_may_pass_is_told_apart(status: int, reason: str, message: str, passes: bool) -> None:
    body = {"kind": "Status", "message": message, "reason": reason}
    assert refusals.may_pass(refusal("creating the pod", status, json.dumps(body).encode())) is passes


TEXTS = st.text(max_size=40) | st.sampled_from(
    ["pods is forbidden: ", 'pods "p" is forbidden: ', 'User "', "exceeded quota: ", "node-7.internal", "\n"]
)


@pytest.mark.parametrize(
    ("status", "message", "passing"),
    [
        (500, "rpc error: code = ResourceExhausted desc = trying to send message larger than max (3 vs. 2)", False),
        (500, "etcdserver: request is too large", False),
        (413, "Request entity too large: limit is 3145728", False),
        (500, "etcdserver: request timed out", True),
    ],
)
def test_what_is_too_large_is_not_asked_for_again(status: int, message: str, passing: bool) -> None:
    body = {"kind": "Status", "status": "Failure", "message": message, "code": status}
    assert refusal("creating the pod", status, json.dumps(body).encode()).passing is passing
    assert said(status, message, "").user_message == refusals.REFUSED


@given(st.integers(400, 599), st.lists(TEXTS, max_size=6), TEXTS, st.dictionaries(st.text(max_size=9), TEXTS))
def test_users_never_hear_the_clusters_own_words(
    status: int, parts: list[str], reason: str, details: dict[str, str]
) -> None:
    error = said(status, "".join(parts), reason, **details)
    assert error.user_message in WORDS
    assert error.explanation.isprintable()
