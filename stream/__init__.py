"""The pair and its travel: datum, codec, publisher, subscriber. Never imports torch."""
