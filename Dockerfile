# One image for the relay and its operator. `make image` builds it with docker or buildah; so does, without more,
#   docker build -t posthouse:dev .
# Any Linux image with a python3 of 3.11 or newer, its venv module and pip can be the base.
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-bookworm


FROM ${PYTHON_IMAGE} AS build

# The same inputs give the same bytes: one date, one order of sets, nothing compiled but in the one place below.
ENV SOURCE_DATE_EPOCH=315532800 \
    PYTHONHASHSEED=0 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_CONFIG_FILE=/run/secrets/pip.conf \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /source

# The secrets are a machine's own pip.conf and authorities (TLS); both may be absent, and neither stays in a layer.
COPY requirements/ requirements/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt \
    if [ -s /run/secrets/ca.crt ]; then export PIP_CERT=/run/secrets/ca.crt; fi && \
    python3 -m venv --without-pip /opt/posthouse && \
    python3 -m venv --without-pip /tools && \
    sed -n '/^setuptools==/,/[^\\]$/p' requirements/dev.txt > /tools/requirements.txt && \
    python3 -m pip --python /tools/bin/python3 install --quiet --no-compile --require-hashes --only-binary :all: \
        -r /tools/requirements.txt && \
    python3 -m pip --python /opt/posthouse/bin/python3 install --quiet --no-compile --require-hashes --only-binary :all: \
        -r requirements/runtime.txt

# Of the packages' files those go that nothing imports: their own tests, stubs for type checkers, and the models and
# calls of the kubernetes package's blocking client. (kopf takes its configuration, and two models if they are there.)
COPY . .
RUN chmod -R go=u-w . && \
    python3 -m pip --python /tools/bin/python3 wheel --quiet --no-deps --no-build-isolation --no-index \
        --wheel-dir /tools . && \
    python3 -m pip --python /opt/posthouse/bin/python3 install --quiet --no-compile --no-deps --no-index \
        /tools/*.whl && \
    cd /opt/posthouse/lib/python3*/site-packages && \
    find . -depth \( -type d -name tests -o -name '*.pyi' -o -name '*_test.py' -o -name 'test_*.py' \) \
        -exec rm -rf {} + && \
    find kubernetes/client/api kubernetes/client/models -name '*.py' ! -name __init__.py -delete && \
    python3 -m compileall -q --invalidation-mode unchecked-hash . && \
    mkdir -p /data/posthouse && \
    find /opt/posthouse /data -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +


FROM ${PYTHON_IMAGE}

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Posthouse" \
      org.opencontainers.image.description="A durable message relay, and its operator for Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Whole folders are copied into folders that exist: then owner and mode are the same with every builder.
COPY --from=build /opt/ /opt/
COPY --from=build --chown=65532:65532 /data/ /var/lib/

# Nothing but the data folder is written, so that the root file system may be read-only.
ENV PATH=/opt/posthouse/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/var/lib/posthouse \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/posthouse
USER 65532:65532
EXPOSE 8080 8081 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["posthouse"]
CMD ["serve"]
