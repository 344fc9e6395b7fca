"""A sans-IO Mainline DHT node (BEP 5, 42, 43, 44): no clock, socket, loop or thread."""
