# syntax=docker/dockerfile:1

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all:
WORKDIR /src
COPY constraints.txt ./
RUN pip install --constraint constraints.txt hatchling && python -m venv --without-pip /opt/gateway
COPY pyproject.toml README.md ./
COPY gateway ./gateway
# Without the extra for the embedded servers: production has its own servers.
RUN pip wheel --no-build-isolation --constraint constraints.txt --wheel-dir dist . \
 && pip --python /opt/gateway install --no-index dist/*.whl

FROM python:3.13-slim
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY_CONFIG=/etc/gateway/gateway.yaml \
    HEALTH_URL=http://127.0.0.1:9901/healthz
USER 10001:10001
EXPOSE 8080 9901
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['HEALTH_URL'], timeout=2)"]
ENTRYPOINT ["gateway"]
CMD ["run"]
