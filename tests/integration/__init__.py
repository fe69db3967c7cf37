"""perdure against a NATS server in a container, as an operator would run one."""
