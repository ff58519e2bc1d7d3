"""Read a recording with the public `mcap` reader and Foxglove's schemas, without any of this project's code.

It lists the topics of the file, then saves the first image of each eye with its time.
Run it with: python examples/read_recording.py walk.mcap --out .
"""

from datetime import UTC, datetime
from pathlib import Path

import tyro
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from mcap.reader import make_reader

EYES = ("/stereo/left/image", "/stereo/right/image")


def main(recording: tyro.conf.Positional[Path], out: Path = Path()) -> None:
    with recording.open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        if summary is None or summary.statistics is None:
            raise SystemExit(f"{recording} has no index (its writer was killed): python -m stream recover mends it")
        for number, channel in summary.channels.items():
            print(f"{channel.topic:20} {summary.statistics.channel_message_counts[number]} messages")
        for topic in EYES:
            _, _, message = next(reader.iter_messages(topics=[topic]))
            image = CompressedImage.FromString(message.data)
            path = out / f"{topic.split('/')[2]}.{image.format}"
            path.write_bytes(image.data)
            print(f"{path}  taken {datetime.fromtimestamp(image.timestamp.seconds, UTC)}  {len(image.data)} bytes")


tyro.cli(main)
