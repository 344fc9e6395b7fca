"""Benches: our relay and the reference under the same load; ``python -m bench --help``."""
