"""The benchmarks: their sums, and one small run of all their processes."""
