"""The backend in this process's memory: the same rules as JetStream, for tests, demos and `memory:`."""
