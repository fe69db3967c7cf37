"""What an entity is: definitions, errors, keys, settings. Pure: no I/O, no asyncio, no NATS."""

if __name__ != "perdure.entities":
    raise ImportError("import perdure.entities")
