"""All ways to send pairs that are measured, by their names in the figures."""

from __future__ import annotations

from functools import partial

from benchmarks.transport.peers import base64_json, image_zmq, netgear, ours, plain_tcp
from benchmarks.transport.peers.contender import Contender

CONTENDERS = {
    "ours": Contender(ours.sender, ours.receiver),
    "ours_curve": Contender(partial(ours.sender, curve=True), partial(ours.receiver, curve=True)),
    "ours_rig": Contender(ours.rig_sender, ours.receiver),
    "tcp": Contender(plain_tcp.sender, plain_tcp.receiver),
    "imagezmq_req": Contender(
        partial(image_zmq.sender, replies=True),
        partial(image_zmq.receiver, replies=True),
        receiver_binds=True,
        needs="imagezmq",
    ),
    "imagezmq_pub": Contender(
        partial(image_zmq.sender, replies=False), partial(image_zmq.receiver, replies=False), needs="imagezmq"
    ),
    "base64": Contender(base64_json.sender, partial(base64_json.receiver, decodes=False)),
    "lerobot": Contender(base64_json.sender, partial(base64_json.receiver, decodes=True)),
    "netgear": Contender(netgear.sender, netgear.receiver, receiver_binds=True, needs="vidgear"),
}
