"""What an entity is, tested without anything around it."""
