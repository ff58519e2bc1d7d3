"""One module per question; `python -m benchmarks` lists them."""
