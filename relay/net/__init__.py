"""Trio meets UDP: drives a DhtNode on a socket."""
