"""One bench for each question; `python -m benchmarks` lists them."""
