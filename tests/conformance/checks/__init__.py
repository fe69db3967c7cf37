"""The checks, by the part of the port that they are about."""
