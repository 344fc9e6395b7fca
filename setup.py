"""The extensions; everything else is in pyproject.toml.

``PKARR_RELAY_DEBUG=1`` builds with bounds checks and assertions instead of for speed.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("PKARR_RELAY_DEBUG") == "1"
FOLDER = Path("_speedups")

extensions = [
    Extension(
        f"relay._speedups.{source.stem}",
        [source.as_posix()],
        depends=[path.as_posix() for path in sorted(FOLDER.glob("*.h"))],
        extra_compile_args=["-O1", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-DNDEBUG"],
    )
    for source in sorted(FOLDER.glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        compiler_directives={
            "language_level": 3,
            "embedsignature": True,
            "boundscheck": DEBUG,
            "wraparound": DEBUG,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "freethreading_compatible": True,
        },
    ),
)
