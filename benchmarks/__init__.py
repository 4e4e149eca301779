"""`python -m benchmarks` measures everything and draws the README's figures; `pytest benchmarks` times single steps."""
