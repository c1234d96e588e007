"""What a refusal of the API means for the user: words of our own, which tell nothing of what the cluster is made of.

Who may decide is decided in the API's order: authentication, then authorization, then the namespace, then admission.
Names that the cluster's owner chose (of namespaces, quotas and accounts) are in its sentences, so that words count only
where the API itself puts them.
"""

from __future__ import annotations

import re

from containerssh.backends.kubernetes.errors import APIError
from containerssh.core.codes import KubernetesCode

UNREACHABLE = "The cluster cannot be reached."
UNKNOWN_SERVER = "The cluster does not accept this server's credentials."
NO_RIGHTS = "This server is not allowed to use pods in the cluster."
NO_NAMESPACE = "The namespace for the pod does not exist."
LEAVING_NAMESPACE = "The namespace for the pod is being deleted."
TAKEN = "The pod is in use by another login."
QUOTA = "The pod is refused: a quota is used up."
POLICY = "The pod is refused by the cluster's policy."
REFUSED = "The cluster refuses the pod."

_NO_NAMESPACE = re.compile(r'namespaces "[^"]*" not found')
_FORBIDDEN = re.compile(r'[a-z][a-z.]*(?P<name> "[^"]*")? is forbidden: (?P<why>.*)')
_UNKNOWN_THINGS = ("error looking up service account ", "no PriorityClass with name ", "pod rejected: RuntimeClass ")
"""Not a policy: the pod names something that there is not."""


_NOT_READY = "not yet ready to handle request"


def may_pass(error: APIError) -> bool:
    """
    Whether the same request may succeed in a while. Besides the API being away or busy, that is a conflict with another
    one's write (to a quota's count, when many pods are created at once), and admission that has only just started.
    """
    forbidden = _FORBIDDEN.fullmatch(error.message) if error.status == 403 else None
    starting = forbidden is not None and forbidden["why"] == _NOT_READY
    return error.passing or error.reason == "Conflict" or starting


def user_words(error: APIError) -> str:
    """One of the sentences above, for *error* in answer to a request for a pod."""
    if error.status == 0:
        return UNREACHABLE
    if error.status == 401:
        return UNKNOWN_SERVER
    if error.reason == "AlreadyExists":
        return TAKEN
    if error.status == 404:
        return NO_NAMESPACE if _NO_NAMESPACE.fullmatch(error.message) else REFUSED
    if "NamespaceTerminating" in error.causes:
        return LEAVING_NAMESPACE
    if error.message.startswith('admission webhook "'):
        return POLICY
    # Also with status 422, which is what a ValidatingAdmissionPolicy says by default.
    forbidden = _FORBIDDEN.fullmatch(error.message)
    return _forbidden(forbidden["why"], named=forbidden["name"] is not None) if forbidden is not None else REFUSED


def _forbidden(why: str, *, named: bool) -> str:
    if why.startswith('User "'):
        return NO_RIGHTS
    if why.startswith("unable to create new content in namespace "):
        return LEAVING_NAMESPACE
    if not named or why.startswith(_UNKNOWN_THINGS):
        return REFUSED
    return QUOTA if why.startswith("exceeded quota: ") else POLICY


def code_of(error: APIError) -> KubernetesCode:
    """What failed: the way to the API, the right to ask it, or the pod itself."""
    if error.status == 0:
        return KubernetesCode.API_UNAVAILABLE
    of_server = (UNKNOWN_SERVER, NO_RIGHTS, NO_NAMESPACE, LEAVING_NAMESPACE)
    return KubernetesCode.API_REFUSED if user_words(error) in of_server else KubernetesCode.POD_CREATE_FAILED
