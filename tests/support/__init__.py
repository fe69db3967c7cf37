"""What tests share: servers, sessions, workloads."""
