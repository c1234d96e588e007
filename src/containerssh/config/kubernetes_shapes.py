"""The outer shape of a pod: what of ``kubernetes.pod`` the server itself relies on (``config.md`` section 8.2)."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


METADATA_KEYS = _names(
    "name generateName namespace selfLink uid resourceVersion generation creationTimestamp deletionTimestamp"
    " deletionGracePeriodSeconds labels annotations ownerReferences finalizers managedFields"
)
"""The fields of the Kubernetes API's ObjectMeta."""

SPEC_KEYS = _names(
    "volumes initContainers containers ephemeralContainers restartPolicy terminationGracePeriodSeconds"
    " activeDeadlineSeconds dnsPolicy nodeSelector serviceAccountName serviceAccount automountServiceAccountToken"
    " nodeName hostNetwork hostPID hostIPC shareProcessNamespace securityContext imagePullSecrets hostname subdomain"
    " affinity schedulerName tolerations hostAliases priorityClassName priority dnsConfig readinessGates"
    " runtimeClassName enableServiceLinks preemptionPolicy overhead topologySpreadConstraints setHostnameAsFQDN os"
    " hostUsers schedulingGates resourceClaims resources hostnameOverride"
)
"""The fields of its PodSpec."""

CONTAINER_KEYS = _names(
    "name image command args workingDir ports envFrom env resources resizePolicy restartPolicy restartPolicyRules"
    " volumeMounts volumeDevices livenessProbe readinessProbe startupProbe lifecycle terminationMessagePath"
    " terminationMessagePolicy imagePullPolicy securityContext stdin stdinOnce tty"
)
"""The fields of its Container."""

_EITHER_CONTEXT = "seLinuxOptions windowsOptions runAsUser runAsGroup runAsNonRoot seccompProfile appArmorProfile"
_POD_CONTEXT_KEYS = _names(
    f"{_EITHER_CONTEXT} supplementalGroups supplementalGroupsPolicy fsGroup fsGroupChangePolicy sysctls"
    " seLinuxChangePolicy"
)
_CONTAINER_CONTEXT_KEYS = _names(
    f"{_EITHER_CONTEXT} capabilities privileged readOnlyRootFilesystem allowPrivilegeEscalation procMount"
)
_RESOURCES_KEYS = _names("limits requests claims")

_LISTS = _names(
    "volumes initContainers containers ephemeralContainers imagePullSecrets hostAliases tolerations readinessGates"
    " topologySpreadConstraints schedulingGates resourceClaims ports envFrom env resizePolicy restartPolicyRules"
    " volumeMounts volumeDevices ownerReferences finalizers managedFields command args"
)
_MAPS = _names("affinity dnsConfig overhead os livenessProbe readinessProbe startupProbe lifecycle")
_TEXT_MAPS = _names("labels annotations nodeSelector")
_TEXTS = _names(
    "name generateName namespace image workingDir hostname subdomain nodeName serviceAccountName priorityClassName"
)


def settle_metadata(value: Any) -> dict[str, Any]:
    """
    An ObjectMeta with its keys as the API writes them, and numbers as text where the API wants text.

    Raises:
        ValueError: it is not a map, has a key that the API does not know, or one with a value of the wrong kind.
    """
    return settle_object(value, METADATA_KEYS, "metadata")


def settle_spec(value: Any) -> dict[str, Any]:
    """The same for a PodSpec."""
    spec = settle_object(value, SPEC_KEYS, "spec")
    _settle_part(spec, "securityContext", _POD_CONTEXT_KEYS, "spec")
    _settle_part(spec, "resources", _RESOURCES_KEYS, "spec")
    deadline = spec.get("activeDeadlineSeconds", 0)
    if isinstance(deadline, bool) or not isinstance(deadline, int):
        raise ValueError("activeDeadlineSeconds in spec must be a number")
    for group in ("containers", "initContainers"):
        if group in spec:
            spec[group] = [_container(item, f"{group}[{number}]") for number, item in enumerate(spec[group])]
    return spec


def _container(value: Any, what: str) -> dict[str, Any]:
    container = settle_object(value, CONTAINER_KEYS, what)
    _settle_part(container, "securityContext", _CONTAINER_CONTEXT_KEYS, what)
    _settle_part(container, "resources", _RESOURCES_KEYS, what)
    for key in ("command", "args"):
        if key in container:
            container[key] = [_text(word, f"{key} in {what}") for word in container[key]]
    if "env" in container:
        container["env"] = [
            _variable(entry, f"env[{number}] in {what}") for number, entry in enumerate(container["env"])
        ]
    return container


def _variable(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} must be a map with name and value")
    return {str(key): _text(item, what) if key in ("name", "value") else item for key, item in value.items()}


def _settle_part(whole: dict[str, Any], key: str, known: frozenset[str], what: str) -> None:
    if key in whole:
        whole[key] = settle_object(whole[key], known, f"{what}.{key}")


def settle_object(value: Any, known: frozenset[str], what: str) -> dict[str, Any]:
    """An object of the API with the keys *known*, but not what is nested in it; raises ValueError."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} must be a map")
    folded = {key.lower(): key for key in known}
    settled: dict[str, Any] = {}
    for key, item in value.items():
        proper = folded.get(str(key).lower())
        if proper is None:
            close = get_close_matches(str(key), known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"unknown key {key!r} in {what}{hint}")
        if proper in settled:
            raise ValueError(f"{proper} is given twice in {what}")
        if item is not None:
            settled[proper] = _value(proper, item, f"{proper} in {what}")
    return settled


def _value(key: str, value: Any, what: str) -> Any:
    """*value*, of the kind that *key* has in the API."""
    if key in _LISTS and not isinstance(value, list | tuple):
        raise ValueError(f"{what} must be a list")
    if key in _MAPS | _TEXT_MAPS and not isinstance(value, Mapping):
        raise ValueError(f"{what} must be a map")
    if key in _TEXT_MAPS:
        return {str(name): _text(item, f"{name!r} of {what}") for name, item in value.items()}
    return _text(value, what) if key in _TEXTS else value


def _text(value: Any, what: str) -> Any:
    """As upstream reads it: YAML takes 1 for a number and yes for a truth, where the API wants text."""
    if isinstance(value, Mapping | list | tuple):
        raise ValueError(f"{what} must be a text")
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value
