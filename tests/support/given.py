"""What was there before the relay, and has to go on working."""

from typing import Final

FIRST_CONFIG: Final = """\
[http]
port = 8080
[mainline]
port = 6881
[cache]
path = "/cache"
size = 100_000
minimum_ttl = 300
maximum_ttl = 86400
[rate_limiter]
behind_proxy = false
burst_size = 10
per_second = 2
"""
"""The configuration of the first deployment, of relay 0.11."""
