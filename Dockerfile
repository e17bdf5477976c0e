FROM python:3.11-slim-bookworm AS build
# A further package index, for example one with CPU builds of torch; PyPI's own are built for CUDA, and are several gigabytes larger.
ARG EXTRA_INDEX_URL=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_EXTRA_INDEX_URL=$EXTRA_INDEX_URL \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/retraced
WORKDIR /src
# The large and slow part first: a change to the sources does not install torch again.
COPY constraints.txt ./
RUN /opt/retraced/bin/pip install -c constraints.txt torch numpy
COPY pyproject.toml hatch_build.py README.md ./
COPY proto ./proto
COPY format ./format
COPY client ./client
COPY server ./server
RUN /opt/retraced/bin/pip install -c constraints.txt '.[server]'

FROM python:3.11-slim-bookworm
# For the sandbox of workers. Debian keeps only the newest build of a package, so a pinned version would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libseccomp2 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin retraced
COPY --from=build /opt/retraced /opt/retraced
ENV PATH=/opt/retraced/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RETRACED_HOST=0.0.0.0 \
    RETRACED_HEALTH_PORT=50052 \
    RETRACED_METRICS_HOST=0.0.0.0 \
    RETRACED_METRICS_PORT=9464
USER 10001
WORKDIR /tmp
EXPOSE 50051 50052 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "retraced_server.healthcheck"]
ENTRYPOINT ["python", "-m", "retraced_server"]
