"""Which addresses are taken and which are refused, in one line that says what to do."""

from __future__ import annotations

import pytest

from stream.endpoint import bind_address, connect_address
from stream.errors import EndpointError


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555"),
        ("tcp://127.1.2.3:0", "tcp://127.1.2.3:0"),
        ("tcp://[::1]:*", "tcp://[::1]:*"),
        ("tcp://localhost:5555", "tcp://127.0.0.1:5555"),
    ],
)
def test_a_loopback_address_can_be_bound(endpoint: str, address: str) -> None:
    assert bind_address(endpoint) == address


@pytest.mark.parametrize(
    "endpoint", ["tcp://*:5555", "tcp://0.0.0.0:5555", "tcp://192.168.1.7:0", "tcp://[::]:1", "tcp://eth0:1"]
)
def test_an_address_open_to_the_network_is_refused_without_consent(endpoint: str) -> None:
    with pytest.raises(EndpointError, match=r"no keys yet.*--insecure") as caught:
        bind_address(endpoint)
    assert "\n" not in str(caught.value)
    assert bind_address(endpoint, insecure=True) == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "5555",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://host:port",
        "tcp://host:65536",
        "ipc://x",
        "tcp://a b:1",
        "tcp://h:1\n",
    ],
)
def test_a_malformed_address_is_refused_with_the_form_that_is_expected(endpoint: str) -> None:
    for read in (bind_address, connect_address):
        with pytest.raises(EndpointError, match="expected tcp://HOST:PORT") as caught:
            read(endpoint)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["tcp://*:5555", "tcp://pi:0", "tcp://pi:*"])
def test_a_wildcard_cannot_be_connected_to(endpoint: str) -> None:
    with pytest.raises(EndpointError, match="no host or port"):
        connect_address(endpoint)


def test_an_address_across_the_network_is_connected_to_only_with_consent() -> None:
    with pytest.raises(EndpointError, match="--insecure"):
        connect_address("tcp://pi.local:5555")
    assert connect_address("tcp://pi.local:5555", insecure=True) == "tcp://pi.local:5555"
    for near in ("tcp://localhost:5555", "tcp://127.0.0.1:5555", "tcp://[::1]:5555"):
        assert connect_address(near) == near
