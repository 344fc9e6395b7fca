"""What holds for every test here.

Hypothesis: no deadline, because two busy cores make any example slow now and then; and in CI
the same examples every time, so that a red run means a change and not luck. Locally they vary.
"""

import os

from hypothesis import settings

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
