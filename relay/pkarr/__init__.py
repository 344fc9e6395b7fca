"""Pkarr values, sans-IO: public keys, signed packets, and the DNS messages inside them."""
