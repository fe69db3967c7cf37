"""The backend in this process's memory: JetStream's rules, for tests, demos and `memory:`."""
