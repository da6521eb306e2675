# The image of Sluice: a virtual environment of locked, hashed wheels on Debian-slim, no shell script, no root.
#   docker build -t sluice .          docker run --rm -p 127.0.0.1:8080:8080 -p 127.0.0.1:9090:9090 sluice
# BASE: any Debian-like image with Python 3.11 (the lock was resolved on it) and its venv module.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY config/lock/build.txt config/lock/run.txt ./
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --only-binary :all: -r build.txt \
 && python3 -m venv --without-pip /opt/sluice \
 && /opt/build/bin/pip --python /opt/sluice/bin/python install --require-hashes --only-binary :all: -r run.txt
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index -w /tmp/wheel . \
 && /opt/build/bin/pip --python /opt/sluice/bin/python install --no-deps --no-index /tmp/wheel/*.whl \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/sluice

FROM ${BASE}
LABEL org.opencontainers.image.title="sluice" \
      org.opencontainers.image.description="A transparent, metering, policed reverse proxy in front of LLM providers." \
      org.opencontainers.image.licenses="Apache-2.0"
# Two malloc arenas: a Python process with a few threads gives its memory back instead of keeping one arena a thread.
# The state, or the journal of a shared one, stands in /var/lib/sluice; which of them, `state:` of the policy says (or SLUICE_STATE).
ENV PATH=/opt/sluice/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=2 \
    SLUICE_POLICY=/etc/sluice/policy.yaml \
    SLUICE_LISTEN=0.0.0.0:8080 \
    SLUICE_ADMIN=0.0.0.0:9090 \
    XDG_STATE_HOME=/var/lib
COPY --from=build /opt/sluice /opt/sluice
COPY --from=build --chown=10001:10001 /var/lib/sluice /var/lib/sluice
COPY config/examples/container.yaml /etc/sluice/policy.yaml
# The only directory that is written to: the rest may be read-only.
VOLUME /var/lib/sluice
USER 10001:10001
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
# Not urllib: it would obey an HTTP_PROXY of the container.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["/opt/sluice/bin/python", "-c", "import os, http.client as h; c = h.HTTPConnection('127.0.0.1', int(os.environ['SLUICE_ADMIN'].rpartition(':')[2]), timeout=2); c.request('GET', '/healthz/ready'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["sluice"]
CMD ["serve"]
