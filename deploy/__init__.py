"""How it runs: the command line, processes, the embedded server."""

if __name__ != "perdure.deploy":
    raise ImportError("import perdure.deploy")
