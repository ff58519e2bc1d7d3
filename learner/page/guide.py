"""What to type on the rig, while the learner waits for its first pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learner.report.html import escape
from stream.host.typed import here, there

SHOWN = 3
"""Rigs whose commands are shown."""


@dataclass(frozen=True, slots=True)
class Guide:
    """What a rig needs to know of this learner."""

    endpoints: tuple[str, ...] = ()
    """Addresses at which rigs are expected, `tcp://HOST:PORT` or `tcp://HOST:PORT#NAME`; none: the pairs come from elsewhere."""
    key: str | None = None
    """Public key of this learner; None where the streams are plain."""
    keys: Path | None = None
    """The folder of keys that was named; None for the usual one."""
    name: str = "learner"
    """The name under which the rig is to trust this learner."""
    origin: str = ""
    """Where the pairs come from if no rig sends them, such as "the folder walk"; empty if rigs send them."""
    is_made_here: bool = False
    """Whether the pairs are made in this process, so that their times and numbers are its own."""


NOTHING = Guide()
"""Where no rig is waited for."""


def guide(its: Guide) -> str:
    """Return the commands for the rig as markup."""
    if not its.endpoints:
        return '<p class="missing">No pair was received yet.</p>'
    return "".join(_commands(its, endpoint) for endpoint in its.endpoints[:SHOWN])


def _commands(its: Guide, endpoint: str) -> str:
    address, _, _ = endpoint.partition("#")
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    device = ("--camera", "sim", "--bind")
    if _is_here(host):
        where, lines = "on this machine, in another terminal", [here("device", *device, address, keys=its.keys)]
    else:
        open_to_all = ("--insecure",) if its.key is None else ()
        where, lines = f"on the rig {host}", [there("device", *device, f"tcp://*:{port}", *open_to_all)]
        if its.key is not None:
            lines.insert(0, there("stream", "keys", "trust", its.name, its.key))
    typed = escape("\n".join(lines))
    return (
        f'<div class="guide"><p>No pair was received yet. Type {escape(where)}:</p><pre tabindex="0">{typed}</pre>'
        "<p>That is the simulated world. For real eyes replace <code>sim</code>, for example by <code>v4l2:0,2</code> "
        "for two USB cameras; <code>python -m device --help</code> lists all kinds.</p></div>"
    )


def _is_here(host: str) -> bool:
    return host in ("localhost", "[::1]") or host.startswith("127.")
