"""Where bytes live: the wire, the backends and the caller's client."""

if __name__ != "perdure.streams":
    raise ImportError("import perdure.streams")
