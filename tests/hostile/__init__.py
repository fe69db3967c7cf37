"""Hostile clients and demanding users, on a real server: nothing that they send hurts others."""
