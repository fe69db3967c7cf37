"""Golden files: what was written once stays readable, and means the same."""
