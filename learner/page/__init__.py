"""The learner over HTTP: metrics, health, and a page that shows what it sees; one port, one app, one thread of its own."""
