"""The parts that several benches use: the harness, pairs, probes, result files, statistics, links, processes."""
