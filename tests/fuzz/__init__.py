"""Coverage-guided fuzzing: hostile bytes for every door of the relay, steered by what they reach.

A target is a module of `tests.fuzz.targets`, or a C file in `tests/fuzz/native`:

- ``target(data: bytes) -> None`` does something with the bytes and asserts what must hold. Any
  exception is a finding. It is called thousands of times a second, so it keeps nothing.
- ``seeds() -> Iterable[bytes]`` are inputs to begin with, usually the shared vectors.
- ``DICTIONARY``, if there, holds words of the input's language.
- ``INPUT_BYTES_MAX``, if there, is the longest input worth trying.

A C file has ``LLVMFuzzerTestOneInput`` and includes the headers of ``_speedups`` themselves; its
seeds are those of the target that ``tests/fuzz/native/NAME.seeds`` names, or none.

    python -m tests.fuzz TARGET ... --seconds N     needs clang and atheris: nox -s fuzz
    tests/fuzz/corpus/TARGET.txt                    what was reached, minimised; replayed by CI
    tests/fuzz/found/TARGET/NAME                    what once went wrong; replayed by CI
    tests/fuzz/RUNS.md                              every run, one row a target

Python targets run under atheris with the extension made by clang for libFuzzer: branches of
Python and of C both count, and the address and undefined-behaviour sanitizers watch the C.
"""
