"""What survives: mailbox, ledger, activation, terms and the runner."""

if __name__ != "perdure.durable":
    raise ImportError("import perdure.durable")
