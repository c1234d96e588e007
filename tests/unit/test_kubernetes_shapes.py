"""The outer shape of ``kubernetes.pod``: what the API would drop without a word, or the server could not use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from containerssh.config.document import read_document
from containerssh.config.kubernetes import KubernetesPodConfig
from containerssh.config.kubernetes_shapes import (
    CONTAINER_KEYS,
    METADATA_KEYS,
    SPEC_KEYS,
    settle_metadata,
    settle_spec,
)
from containerssh.config.pod_advice import pod_advice

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def read(folder: Path, text: str) -> KubernetesPodConfig:
    file = folder / "pod.yaml"
    file.write_text(text)
    return KubernetesPodConfig.model_validate(read_document(file).tree)


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (
            {"spec": {"securityContext": {"runAsUsr": 1000}}},
            "runAsUsr' in spec.securityContext; did you mean runAsUser",
        ),
        (
            {"spec": {"containers": [{"securityContext": {"readOnlyRootFileSystems": True}}]}},
            "did you mean readOnlyRootFilesystem",
        ),
        ({"spec": {"containers": [{"resources": {"limit": {"memory": "1Gi"}}}]}}, "did you mean limits"),
        ({"spec": {"volumes": 5}}, "volumes in spec must be a list"),
        ({"spec": {"containers": [{"env": {"A": "b"}}]}}, r"env in containers\[0\] must be a list"),
        ({"spec": {"containers": [{"env": ["A=b"]}]}}, r"env\[0\] in containers\[0\] must be a map"),
        ({"spec": {"initContainers": [{"env": 5}]}}, r"env in initContainers\[0\] must be a list"),
        ({"spec": {"activeDeadlineSeconds": "60"}}, "must be a number"),
        ({"metadata": {"labels": ["a"]}}, "labels in metadata must be a map"),
        ({"metadata": {"annotations": "a"}}, "annotations in metadata must be a map"),
        ({"metadata": {"labels": {"a": ["b"]}}}, "'a' of labels in metadata must be a text"),
    ],
)
def test_what_the_api_would_not_understand_is_refused_with_its_place(pod: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        KubernetesPodConfig.model_validate(pod)


def test_numbers_and_truths_are_text_where_the_api_wants_text(tmp_path: Path) -> None:
    pod = read(
        tmp_path,
        """
        metadata: {name: 12345, labels: {version: 1.20, on: true}, annotations: {octal: 0755, nothing: null}}
        spec:
          nodeSelector: {zone: 3}
          securityContext: {RunAsUser: 1000}
          containers:
            - {env: [{name: A, value: 1}, {name: B, value: false}], command: [sleep, 60], resources: {limits: {cpu: 1}}}
        """,
    )
    assert pod.metadata["name"] == "12345"
    assert pod.metadata["labels"] == {"version": "1.20", "on": "true"}
    assert pod.metadata["annotations"] == {"octal": "0755", "nothing": None}
    assert pod.spec["nodeSelector"] == {"zone": "3"}
    assert pod.spec["securityContext"] == {"runAsUser": 1000}
    assert pod.console["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "false"}]
    assert pod.console["command"] == ["sleep", "60"]
    assert pod.console["resources"] == {"limits": {"cpu": 1}}


@given(st.dictionaries(st.sampled_from(sorted(SPEC_KEYS)), ANYTHING, max_size=3), ANYTHING)
def test_any_spec_is_settled_or_refused(spec: dict[str, Any], of_container: Any) -> None:
    try:
        settled = settle_spec({**spec, "containers": [dict.fromkeys(sorted(CONTAINER_KEYS)[:3], of_container)]})
    except ValueError:
        return
    pod = KubernetesPodConfig.model_validate({"spec": settled})
    assert list(pod_advice(pod))


@given(st.dictionaries(st.sampled_from(sorted(METADATA_KEYS)), ANYTHING, max_size=3))
def test_any_metadata_is_settled_or_refused(metadata: dict[str, Any]) -> None:
    try:
        settled = settle_metadata(metadata)
    except ValueError:
        return
    assert settle_metadata(settled) == settled
