"""What the process-level tests and the benches share: relays, peers and packets."""
