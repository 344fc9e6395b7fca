"""The extensions; everything else is in pyproject.toml.

``PKARR_RELAY_DEBUG=1`` builds for finding faults instead of for speed: bounds checks,
assertions, and the address and undefined-behaviour sanitizers (`nox -s debug` runs that).
``PKARR_RELAY_DEBUG=fuzz`` also lets libFuzzer see the branches taken; it needs clang.
"""

import gzip
import hashlib
import os
import tarfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.sdist import sdist

DEBUG = os.environ.get("PKARR_RELAY_DEBUG", "") in {"1", "fuzz"}
FUZZED = os.environ.get("PKARR_RELAY_DEBUG") == "fuzz"
FOLDER = Path("_speedups")
SANITIZERS = [
    "-fsanitize=address,undefined" + (",fuzzer-no-link" if FUZZED else ""),
    "-fno-sanitize-recover=undefined",
]
SETTINGS = Path(__file__).stat().st_mtime
"""C made with other settings than this file's is made again; Cython itself does not notice."""

sources = sorted(FOLDER.glob("*.pyx"))
generated = [source.with_suffix(".c") for source in sources]
headers = sorted(path for kind in ("h", "pxd", "pxi") for path in FOLDER.glob(f"*.{kind}"))

SHARED_HEADERS = sorted([*FOLDER.glob("packet_*.h"), FOLDER / "siphash.h"])
"""What two extensions lay out memory by; each tells the other which text it was made from."""
layout = hashlib.sha256(b"".join(path.read_bytes() for path in SHARED_HEADERS)).hexdigest()[:16]

extensions = [
    Extension(
        f"relay._speedups.{source.stem}",
        [source.as_posix()],
        define_macros=[("PT_LAYOUT", f'"{layout}"')],
        depends=[path.as_posix() for path in headers],
        extra_compile_args=[
            *(["-O1", "-g", "-UNDEBUG", *SANITIZERS] if DEBUG else ["-O3", "-DNDEBUG"]),
            "-ffp-contract=off",  # numbers are those that Python would compute
            f"-ffile-prefix-map={Path.cwd()}=.",  # nothing compiled tells where that was
        ],
        extra_link_args=SANITIZERS if DEBUG else [],
    )
    for source in sources
]


class ComparableSdist(sdist):
    """An sdist that is the same, byte for byte, whoever packs it and when.

    With ``SOURCE_DATE_EPOCH`` set, as for wheels: files are that old, nobody's, and in order.
    """

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):  # noqa: A002, ANN001, ANN201
        """Pack `base_dir`; setuptools' own way without the variable, or for another format."""
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if epoch is None or format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)

        def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.mtime, member.uid, member.gid = int(epoch), 0, 0
            member.uname = member.gname = "root"
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        path = Path(f"{base_name}.tar.gz")
        root = Path(root_dir or ".")
        with (
            path.open("wb") as file,
            gzip.GzipFile("", "wb", mtime=int(epoch), fileobj=file) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for member in sorted([root / base_dir, *(root / base_dir).rglob("*")]):
                tar.add(member, member.relative_to(root), recursive=False, filter=plain)
        return str(path)


setup(
    cmdclass={"sdist": ComparableSdist},
    ext_modules=cythonize(
        extensions,
        force=DEBUG or any(c.exists() and c.stat().st_mtime < SETTINGS for c in generated),
        compiler_directives={
            "language_level": 3,
            "embedsignature": True,
            "boundscheck": DEBUG,
            "wraparound": DEBUG,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "auto_pickle": False,  # nothing here is worth sending to another process
        },
    ),
)
