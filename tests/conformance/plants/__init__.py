"""Planted errors: a memory backend that isn't like the server, in one way each.

Each is a patch of the backend and the names of the checks that must notice it. Together they
reach every check, so that none can pass whatever a backend does (`test_planted.py` holds that).
"""
