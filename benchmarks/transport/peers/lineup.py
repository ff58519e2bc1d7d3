"""All ways to send pairs that are measured, by their names in the figures."""

from __future__ import annotations

from functools import partial

from benchmarks.transport.peers import base64_json, image_zmq, netgear, ours, plain_tcp
from benchmarks.transport.peers.contender import Contender

CONTENDERS = {
    "ours": Contender(ours.Sender, ours.Receiver),
    "ours_curve": Contender(partial(ours.Sender, curve=True), partial(ours.Receiver, curve=True)),
    "ours_rig": Contender(ours.RigSender, ours.Receiver),
    "tcp": Contender(plain_tcp.Sender, plain_tcp.Receiver),
    "imagezmq_req": Contender(
        partial(image_zmq.Sender, replies=True),
        partial(image_zmq.Receiver, replies=True),
        receiver_binds=True,
        needs="imagezmq",
    ),
    "imagezmq_pub": Contender(
        partial(image_zmq.Sender, replies=False), partial(image_zmq.Receiver, replies=False), needs="imagezmq"
    ),
    "base64": Contender(base64_json.Sender, partial(base64_json.Receiver, decodes=False)),
    "lerobot": Contender(base64_json.Sender, partial(base64_json.Receiver, decodes=True)),
    "netgear": Contender(netgear.Sender, netgear.Receiver, receiver_binds=True, needs="vidgear"),
}
