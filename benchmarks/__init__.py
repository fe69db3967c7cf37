"""How fast perdure is, beside the raw nats-py client doing the same writes in the same run.

`make bench` runs it, `python -m benchmarks --help` explains it, docs/performance.md tells how it
measures and what came of it.
"""
