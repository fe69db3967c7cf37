"""Durable, sharded, event-sourced entities on nothing but NATS JetStream."""
