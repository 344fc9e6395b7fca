"""Trio meets UDP: drives a DhtNode on a socket, and speaks Pkarr values to the rooms above."""
