# The relay as an image of two stages: what compiles stays in the first. It builds on BuildKit and
# on the classic builder; docs: README.md, "With Docker".
#
#   docker build -t pkarr-relay .
#   docker build -t pkarr-relay --build-arg BASE=python:3.13-slim-trixie .

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# Where pip looks; used here only, so that no later layer or history has them.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_DEFAULT_TIMEOUT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN apt-get update -q \
 && apt-get install -q -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src

# Dependencies first: they change rarely, and a change of the source alone does not fetch them anew.
# The image's own pip installs into /venv, so that /venv needs none.
COPY pyproject.toml constraints.txt ./
RUN python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
open("build.txt", "w").write("\n".join(p["build-system"]["requires"])); \
open("run.txt", "w").write("\n".join(p["project"]["dependencies"]))' \
 && pip install -q -c constraints.txt -r build.txt \
 && python -m venv --without-pip /venv \
 && pip --python /venv/bin/python install -q --no-compile -c constraints.txt -r run.txt

# Then what has to be compiled, which takes longest; the wheel takes it from here.
COPY setup.py LICENSE ./
COPY _speedups _speedups
RUN python setup.py -q build_ext -j "$(nproc)"

COPY README.md ./
COPY relay relay
# As old as a wheel can be: pip writes the digest of the wheel down, so its times would be in there.
RUN SOURCE_DATE_EPOCH=315532800 pip wheel -q --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip --python /venv/bin/python install -q --no-compile --no-deps --no-index /wheels/*.whl
# Without what only development needs. Bytecode is made here, because the relay may not write its
# own; it is not compared with its source, whose times the next stage need not keep. By force: pip
# imports attr where it is there, and leaves bytecode with the source's time in it.
RUN strip --strip-unneeded /venv/lib/python3*/site-packages/relay/_speedups/*.so \
 && cd /venv/lib/python3*/site-packages \
 && rm -rf pip pip-*.dist-info /venv/bin/pip* /venv/bin/*ctivate* \
 && find . -type d \( -name tests -o -name _tests \) -prune -exec rm -rf {} + \
 && python -m compileall -q -f --invalidation-mode unchecked-hash .


FROM ${BASE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pkarr-relay" \
      org.opencontainers.image.description="A Pkarr relay: signed DNS packets over HTTP and the Mainline DHT" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /venv /venv
# - The relay's user; relay/entrypoint.py knows its number.
#   /etc/shadow gets the day on which it was made, and that is to be the same in every build.
# - /config.toml may say `path = ".pkarr_cache"`, as on the host: that is the mounted folder, too.
# - Everything is imported once. That proves the image, and leaves the bytecode of those parts of the
#   standard library that the relay uses: the base image has none, and the relay may not write its
#   own. Without it a health check takes 0.20 s of CPU, with it 0.08; the relay's imports 0.28 and 0.17.
RUN groupadd --gid 10001 pkarr \
 && SOURCE_DATE_EPOCH=315532800 useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pkarr \
 && install -d -o 10001 -g 10001 /cache \
 && ln -s /cache /.pkarr_cache \
 && /venv/bin/python -c 'import importlib, pkgutil, relay; \
[importlib.import_module(m.name) for m in pkgutil.walk_packages(relay.__path__, "relay.") if m.name != "relay.__main__"]'
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1
EXPOSE 8080/tcp 6881/tcp 6881/udp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=4s --timeout=5s --start-period=10s --retries=3 CMD ["pkarr-relay", "health"]
# As root, but only until the first thing that this does: see its docstring.
ENTRYPOINT ["/venv/bin/python", "-I", "-m", "relay.entrypoint"]
CMD ["pkarr-relay", "--config=/config.toml"]
