"""What is taken for an address of the server's host, a Docker engine's or a pod's node."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.docker.answers import gateways_in
from containerssh.backends.host_addresses import host_addresses, no_addresses, usable
from containerssh.backends.kubernetes.node import addresses_of_node

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.ip_addresses().map(str),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Networks", "bridge", "Gateway", "status", "hostIP", "hostIPs", "ip", "podIP"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


async def test_the_hosts_addresses_are_those_of_its_interfaces_but_no_loopback_ones() -> None:
    found = await host_addresses()
    assert found
    assert not any(address.is_loopback for address in found)
    assert await host_addresses() is found, "not determined for each forward"


def test_only_addresses_that_lead_out_of_the_container_are_used() -> None:
    texts = ["172.17.0.1", "172.17.0.1", "", "127.0.0.1", "::1", "0.0.0.0", "::", "fe80::1", "invalid"]
    assert usable(texts) == (ipaddress.ip_address("172.17.0.1"), ipaddress.ip_address("fe80::1"))


def test_an_engine_tells_the_gateways_of_all_networks() -> None:
    networks = {
        "bridge": {"Gateway": "172.17.0.1", "IPv6Gateway": ""},
        "mine": {"Gateway": "10.9.0.1", "IPv6Gateway": "fd00::1"},
    }
    assert gateways_in({"Networks": networks}) == ("172.17.0.1", "10.9.0.1", "fd00::1")


@given(JSON)
def test_whatever_an_engine_says_of_networks_is_read(settings: object) -> None:
    assert all(isinstance(gateway, str) for gateway in gateways_in(settings))


async def test_a_pods_node_belongs_to_the_host() -> None:
    status = {"hostIP": "192.0.2.9", "hostIPs": [{"ip": "192.0.2.9"}, {"ip": "2001:db8::9"}], "podIP": "10.0.0.7"}
    found = await addresses_of_node({"status": status})()
    assert found == (*await host_addresses(), ipaddress.ip_address("192.0.2.9"), ipaddress.ip_address("2001:db8::9"))


async def test_a_pod_in_its_nodes_network_is_meant_to_be_there() -> None:
    assert addresses_of_node({"status": {"hostIP": "192.0.2.9", "podIP": "192.0.2.9"}}) is no_addresses


@pytest.mark.parametrize("pod", [{}, {"status": None}, {"status": {}}])
async def test_without_a_status_the_servers_host_is_known_all_the_same(pod: dict[str, Any]) -> None:
    assert await addresses_of_node(pod)() == await host_addresses()


@given(st.dictionaries(st.just("status"), JSON))
async def test_whatever_a_cluster_says_of_a_pod_is_read(pod: dict[str, Any]) -> None:
    await addresses_of_node(pod)()
