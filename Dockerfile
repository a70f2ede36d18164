# The service in one image; the command selects the process: `headrace worker`, `headrace relay`, …
# Only requirements-service.lock is installed, without the servers of the native stack. Build arguments such as
# PIP_INDEX_URL configure pip for other package indexes.

FROM python:3.11-slim-bookworm AS build
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements-bootstrap.lock requirements-service.lock ./
RUN pip install --quiet --require-hashes -r requirements-bootstrap.lock \
 && python -m venv --without-pip /opt/headrace \
 && pip --python /opt/headrace/bin/python install --quiet --require-hashes -r requirements-service.lock
COPY pyproject.toml README.md LICENSE ./
COPY headrace headrace
RUN pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/headrace/bin/python install --quiet --no-deps /wheels/*.whl \
 && /opt/headrace/bin/python -m compileall -q /opt/headrace/lib

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --home-dir /tmp headrace
COPY --from=build /opt/headrace /opt/headrace
ENV PATH=/opt/headrace/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ENV HEADRACE_LOG_FORMAT=json HEADRACE_HEALTH_HOST=0.0.0.0 HEADRACE_HEALTH_PORT=9100
USER 10001
WORKDIR /tmp
EXPOSE 9100
STOPSIGNAL SIGTERM
ENTRYPOINT ["headrace"]
CMD ["--help"]
