"""The page for Prometheus, and what several processes have counted together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.config.services import GeoIPConfig
from containerssh.core.counters import Counters
from containerssh.core.errors import ConfigError
from containerssh.core.metrics import CONNECTIONS, CURRENT_CONNECTIONS, METRICS, page
from containerssh.geoip import countries
from containerssh.shared_metrics import SharedMetrics, shared_metrics

UPSTREAMS = """
containerssh_config_server_requests_total counter requests_total
containerssh_config_server_failures_total counter failures_total
containerssh_backend_requests_total counter requests_total
containerssh_backend_errors_total counter errors_total
containerssh_auth_server_requests_total counter requests_total
containerssh_auth_server_failures_total counter failures_total
containerssh_auth_success_total counter success_total
containerssh_auth_failures_total counter failures_total
containerssh_ssh_connections_total counter connections_total
containerssh_ssh_current_connections gauge connections
containerssh_ssh_successful_handshakes_total counter handshakes_total
containerssh_ssh_failed_handshakes_total counter handshakes_total
"""
"""The name, the type and the unit of each metric of 0.6, in the order of its page (observability.md section 6.2)."""


def samples(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_the_names_types_and_units_are_upstreams() -> None:
    comments: dict[str, dict[str, str]] = {}
    for line in page([]).splitlines():
        if line != "# EOF":
            _, kind, name, text = line.split(" ", 3)
            comments.setdefault(name, {})[kind] = text
    found = [(name, told["TYPE"], told["UNIT"]) for name, told in comments.items()]
    upstreams = [tuple(line.split()) for line in UPSTREAMS.split("\n") if line]
    assert found[: len(upstreams)] == upstreams
    assert comments["containerssh_ssh_connections_total"]["HELP"] == "Number of connections since start"
    assert all(list(told) == ["HELP", "UNIT", "TYPE"] for told in comments.values())


def test_a_metric_that_nothing_was_counted_for_has_its_description_only() -> None:
    text = page([])
    assert samples(text) == []
    assert text.count("# TYPE ") == len(METRICS)
    assert text.endswith("# EOF\n")


def test_values_have_six_digits_and_labels_stand_in_braces() -> None:
    text = page([((CONNECTIONS, (("country", "HU"),)), 3), ((CURRENT_CONNECTIONS, ()), 1)])
    assert samples(text) == [f'{CONNECTIONS}{{country="HU"}} 3.000000', f"{CURRENT_CONNECTIONS} 1.000000"]


def test_samples_of_several_processes_are_added_up() -> None:
    one = ((CONNECTIONS, (("country", "XX"),)), 3)
    assert samples(page([one, one])) == [f'{CONNECTIONS}{{country="XX"}} 6.000000']


@given(st.text())
def test_no_label_breaks_out_of_its_line(value: str) -> None:
    found = page([((CONNECTIONS, (("country", value),)), 1)]).split("\n")
    (line,) = [line for line in found if line.startswith(f"{CONNECTIONS}{{")]
    inside = line.removeprefix(f'{CONNECTIONS}{{country="').removesuffix('"} 1.000000')
    assert inside.replace("\\\\", "").replace('\\"', "").replace("\\n", "").count('"') == 0


def attached(descriptor: int, number: int) -> SharedMetrics:
    return SharedMetrics(os.dup(descriptor), number)


def test_processes_know_what_the_others_have_counted() -> None:
    with shared_metrics(3) as descriptor:
        places = [attached(descriptor, number) for number in range(3)]
        for number, place in enumerate(places):
            counters = Counters()
            counters.add(CONNECTIONS, number + 1, country="XX")
            place.write(counters)
        key = (CONNECTIONS, (("country", "XX"),))
        assert list(places[0].of_others()) == [(key, 2), (key, 3)]
        assert list(places[2].of_others()) == [(key, 1), (key, 2)]


def test_a_successor_goes_on_counting_but_has_no_connections_yet() -> None:
    with shared_metrics(2) as descriptor:
        before = Counters()
        before.add(CONNECTIONS, 7, country="XX")
        before.add(CURRENT_CONNECTIONS, 2, country="XX")
        attached(descriptor, 1).write(before)
        after = Counters()
        attached(descriptor, 1).resume(after)
        assert after.value(CONNECTIONS, country="XX") == 7
        assert after.value(CURRENT_CONNECTIONS, country="XX") == 0
        assert list(attached(descriptor, 0).of_others()) == [((CONNECTIONS, (("country", "XX"),)), 7)]


@given(st.binary(max_size=64))
def test_what_is_half_written_is_not_read(noise: bytes) -> None:
    with shared_metrics(2) as descriptor:
        reader = attached(descriptor, 0)
        counters = Counters()
        counters.add(CONNECTIONS, country="XX")
        attached(descriptor, 1).write(counters)
        known = list(reader.of_others())
        os.pwrite(descriptor, noise, 1024 * 1024 + 4)
        assert list(reader.of_others()) in (known, [])


def test_no_address_has_a_country_without_a_database() -> None:
    assert countries(GeoIPConfig())("192.0.2.1") == "XX"


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "countries.mmdb"
    file.write_bytes(b"nothing of the kind")
    config = GeoIPConfig.model_validate({"provider": "maxmind", "maxmind-geoip2-file": str(file)})
    with pytest.raises(ConfigError, match="cannot be used"):
        countries(config)
