"""What several benchmarks use: result files, paired statistics, links, processes."""
