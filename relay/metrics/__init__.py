"""The relay's counters in Prometheus' format, on a listener of its own."""
