"""The learner over HTTP: a live page, metrics, health and weights, on one port and in one thread of its own."""
