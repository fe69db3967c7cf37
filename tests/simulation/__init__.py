"""The real runner and the real client in seeded worlds on virtual time; see run.py."""
