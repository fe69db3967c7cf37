"""Gateway: entities over plain HTTP, for who has neither Python nor NATS.

It is a caller like any other: all that it does goes through `Cluster` and `Ref`, so that it
promises what they promise and holds nothing that a second gateway, or a restarted one, would miss.
docs/http.md is its specification; `document.py` generates the same for programs (OpenAPI 3.1).
"""
