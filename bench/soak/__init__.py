"""A relay under a mixed load for an hour, in a network whose nodes come and go: does anything grow?

``python -m bench.soak`` (``nox -s soak``); see `__main__`.
"""
