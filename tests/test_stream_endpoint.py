"""Which addresses are taken and which are refused, in one line that says what to do; and when keys are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from stream.errors import EndpointError, StreamError
from stream.transport.endpoint import bind_address, connect_address, rig_at, security_for
from stream.transport.keys import KeysError, make_keys, trust
from stream.transport.security import Security

NEAR = ("tcp://localhost:5555", "tcp://127.0.0.1:5555", "tcp://127.1.2.3:5555", "tcp://[::1]:5555")
FAR = ("tcp://pi.local:5555", "tcp://192.168.1.7:5555", "tcp://[fe80::1]:5555", "tcp://[fe80::1%eth0]:5555")
OPEN = ("tcp://*:5555", "tcp://0.0.0.0:5555", "tcp://192.168.1.7:0", "tcp://[::]:1", "tcp://eth0:1")


def with_keys(folder: Path, *names: str) -> Security:
    make_keys(folder)
    for name in names:
        trust(folder, name, zmq.curve_keypair()[0].decode())
    return Security.load(folder)


@contextmanager
def refused(error: type[StreamError], said: str) -> Iterator[None]:
    """Refused in one line that matches."""
    with pytest.raises(error, match=said) as caught:
        yield
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("endpoint", OPEN)
def test_an_address_open_to_the_network_is_bound_only_with_keys_or_consent(endpoint: str, tmp_path: Path) -> None:
    with refused(EndpointError, "stream keys.*--insecure"):
        bind_address(endpoint)
    assert bind_address(endpoint, insecure=True) == endpoint
    assert bind_address(endpoint, security=with_keys(tmp_path)) == endpoint


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
        "tcp://h:1#",
        "tcp://h:1#a b",
        "tcp://h:1#a#b",
        "tcp://h:1#-a",
        "tcp://h:1#" + 65 * "a",
    ],
)
def test_a_malformed_address_is_refused_with_the_form_that_is_expected(endpoint: str) -> None:
    for read in (bind_address, connect_address, rig_at, lambda endpoint: security_for([endpoint], environ={})):
        with refused(EndpointError, "expected tcp://HOST:PORT"):
            read(endpoint)


@pytest.mark.parametrize("endpoint", ["tcp://*:5555", "tcp://pi:0", "tcp://pi:*"])
def test_a_wildcard_cannot_be_connected_to(endpoint: str) -> None:
    with refused(EndpointError, "no host or port"):
        connect_address(endpoint)


@pytest.mark.parametrize("endpoint", FAR)
def test_an_address_across_the_network_is_connected_to_only_with_keys_or_consent(endpoint: str, tmp_path: Path) -> None:
    with refused(EndpointError, "across the network.*stream keys.*--insecure"):
        connect_address(endpoint)
    assert connect_address(endpoint, insecure=True) == endpoint
    assert connect_address(endpoint, security=with_keys(tmp_path, "baby")) == f"{endpoint}#baby"


@pytest.mark.parametrize("endpoint", NEAR)
def test_an_address_of_this_machine_is_connected_to_without_asking(endpoint: str) -> None:
    assert connect_address(endpoint) == endpoint


def test_the_only_trusted_rig_needs_no_name_and_one_of_several_does(tmp_path: Path) -> None:
    one, two = with_keys(tmp_path / "one", "baby"), with_keys(tmp_path / "two", "baby", "toddler")
    assert connect_address("tcp://pi:1", security=one) == "tcp://pi:1#baby"
    assert connect_address("tcp://pi:1#toddler", security=two) == "tcp://pi:1#toddler"
    with refused(KeysError, "add #NAME, one of baby, toddler"):
        connect_address("tcp://pi:1", security=two)
    with refused(KeysError, "names uncle.*trusted are baby, toddler"):
        connect_address("tcp://pi:1#uncle", security=two)
    with refused(KeysError, r"type on the rig `\.venv/bin/python -m stream keys`"):
        connect_address("tcp://pi:1", security=with_keys(tmp_path / "none"))


def test_a_named_rig_is_never_called_without_keys() -> None:
    for insecure in (True, False):
        with refused(EndpointError, "known by its key"):
            connect_address("tcp://127.0.0.1:1#baby", insecure=insecure)


def test_a_rig_binds_no_name() -> None:
    with refused(EndpointError, "only a learner does"):
        bind_address("tcp://127.0.0.1:1#baby")


def test_an_address_is_taken_apart_as_zeromq_wants_it() -> None:
    assert rig_at("tcp://pi:1#baby") == ("tcp://pi:1", "baby")
    assert rig_at("tcp://[::1]:1") == ("tcp://[::1]:1", None)


def test_keys_are_loaded_where_they_are_needed_or_named_and_nowhere_else(tmp_path: Path) -> None:
    keys = with_keys(tmp_path, "baby")
    here = {"BABYAGENT_KEYS": str(tmp_path)}
    assert security_for(NEAR, environ=here) is None
    assert security_for(NEAR, keys=tmp_path, environ={}) == keys
    assert security_for([*NEAR, "tcp://127.0.0.1:1#baby"], environ=here) == keys
    for endpoint in (*FAR, *OPEN):
        assert security_for([*NEAR, endpoint], environ=here) == keys
        assert security_for([*NEAR, endpoint], insecure=True, environ=here) is None


def test_missing_keys_are_never_done_without_unless_that_is_said(tmp_path: Path) -> None:
    for endpoint in (*FAR, *OPEN):
        with refused(EndpointError, "needs keys: no keys.*--insecure"):
            security_for([endpoint], environ={"HOME": str(tmp_path)})
    with refused(KeysError, "no keys"):
        security_for(NEAR, keys=tmp_path / "none", environ={})
    with refused(EndpointError, "leave one of the two out"):
        security_for(NEAR, keys=tmp_path, insecure=True, environ={})
