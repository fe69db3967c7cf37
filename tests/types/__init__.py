"""The public API as types: what must be accepted and what must be refused."""
