"""Pure tests: no server, no loop, no clock."""
