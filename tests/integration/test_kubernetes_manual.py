"""What the manual says to create on a cluster fits together, and is enough."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.cluster import BUSYBOX, Cluster
from tests.support.services import wait_until

pytestmark = pytest.mark.root

PAGE = Path(__file__).parents[2] / "docs" / "backends" / "kubernetes.md"


def _section(heading: str) -> list[list[dict[str, Any]]]:
    """The YAML blocks below *heading*, each with its documents."""
    text = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [list(YAML(typ="safe").load_all(block)) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


async def test_a_pod_of_the_manual_is_admitted_by_the_walls_of_the_manual(cluster: Cluster) -> None:
    walls, ((config,),) = (blocks := _section("Isolating guests"))[0], blocks[1:]
    pod = config["kubernetes"]["pod"]
    for console in pod["spec"]["containers"]:
        console.update(image=BUSYBOX, imagePullPolicy="Never")
    with cluster.namespace() as namespace:
        for one in walls:
            meta = one["metadata"]
            if one["kind"] == "Namespace":
                meta["name"] = namespace
            else:
                meta["namespace"] = namespace
        cluster.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, walls)).encode())
        quota = f"/api/v1/namespaces/{namespace}/resourcequotas/guests"
        wait_until(lambda: "used" in cluster.ask(quota).get("status", {}), within=30, what="the quota's count")
        body = {"metadata": {"name": "guest"}, "spec": pod["spec"]}
        made = cluster.ask(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", "POST", body)
        assert made["metadata"]["name"] == "guest"
