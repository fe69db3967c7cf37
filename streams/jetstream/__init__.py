"""The backend on NATS JetStream, by nats-py's public API only."""
