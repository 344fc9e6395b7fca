"""Values of the Pkarr format: keys, signed packets, time, DNS. No I/O."""
