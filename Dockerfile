# The images: `--build-arg SERVICE=users` builds a service (a folder of services/), `--target edge` builds Envoy with our configuration.
# The version of Python stands here alone. BASE is pinned by digest where images are published: BASE=docker.io/library/python@sha256:…
ARG PYTHON=3.13
ARG BASE=docker.io/library/python:${PYTHON}-slim-trixie

# -- generates code from proto/ and installs what the services need; nothing of this stage but the results goes on
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
# Nothing of binutils reaches an image, so any version will do.
# hadolint ignore=DL3008
RUN apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends binutils >/dev/null
WORKDIR /src
COPY requirements.lock requirements-services.lock ./
RUN python -m venv /tools \
    && /tools/bin/pip install --quiet --require-hashes -r requirements.lock \
    && python -m venv /app/venv \
    && /app/venv/bin/pip install --quiet --require-hashes -r requirements-services.lock \
    && /app/venv/bin/pip uninstall --quiet --yes pip setuptools \
    # What only a debugger reads is a quarter of what is installed.
    && find /app/venv -name '*.so*' -type f -exec strip --strip-unneeded {} +
COPY proto proto
COPY libs libs
COPY tools tools
COPY envoy envoy
COPY docs/openapi.json docs/
COPY services.yaml ./
RUN export PYTHONPATH=libs/api_common:libs/ameide_protos \
    && /tools/bin/python -m tools.contract.generate \
    && /tools/bin/python -m tools.edge.generate \
    && /tools/bin/python -m tools.openapi.docs_page \
    && cp -r libs/api_common/api_common libs/ameide_protos/ameide libs/ameide_protos/buf /app/venv/lib/python*/site-packages/ \
    && rm -r /app/venv/lib/python*/site-packages/api_common/testing \
    && python -m compileall -q /app/venv/lib \
    # The edge's folder, as `make up` lays it out; what an environment decides is mounted at /config, its certificates at /run/tls.
    && mkdir -p /certs \
    && /tools/bin/python -c "from pathlib import Path; from tools.edge.layout import lay_out; lay_out(Path('/edge'), certs=Path('/certs'), decided=False)" \
    && cp tools/edge/start.py /edge/ \
    && ln -sfn /run/tls /edge/certs \
    && for name in clusters.yaml authentication.yaml audience.lua claims.lua edge.json secrets runtime; do rm -rf "/edge/$name" && ln -s "/config/$name" "/edge/$name"; done

# -- the base without what no process of ours uses: package managers, what changes users and disks, what only people read
FROM ${BASE} AS trimmed
RUN groupadd --gid 10001 ameide && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin ameide \
    && python -c "import shutil, site; [shutil.rmtree(path, ignore_errors=True) for path in site.getsitepackages()]" \
    && library="$(python -c "import sysconfig; print(sysconfig.get_path('stdlib'))")" \
    && for part in config-3 ensurepip idlelib lib2to3 pydoc_data test tkinter turtle lib-dynload/_test lib-dynload/_tkinter; do \
        rm -rf "${library:?}/$part"*; done \
    # By dpkg, so that scanners read a list that is true. The package openssl stays: it links Python to the certificates of authorities.
    && dpkg --purge --force-all apt libapt-pkg7.0 sqv bash diffutils login mount passwd tar util-linux >/dev/null 2>&1 \
    && dpkg --purge --force-all perl-base >/dev/null 2>&1 \
    # Licences stay.
    && find /usr/share/doc -type f ! -name copyright -delete \
    && for part in info lintian locale man python-wheels zsh; do rm -rf "/usr/share/${part:?}"; done \
    && rm -rf /usr/bin/pip* /usr/local/bin/pip* /usr/local/include /usr/lib/*/gconv /var/cache/* /var/lib/apt /var/log/*

# -- what every process of ours stands on, in one layer: what a later layer removes would be in the image all the same
FROM scratch AS api-base
# hadolint ignore=DL3067
COPY --from=trimmed / /
ARG VERSION=dev
LABEL org.opencontainers.image.title="Ameide API mesh" org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.description="A service of the mesh, or its edge: users, workflows, agents and IPAs behind Envoy"
ENV PATH=/app/venv/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /app

FROM api-base AS edge
COPY --from=build /tools/lib/python*/site-packages/envoy/_bin/envoy /usr/local/bin/
COPY --from=build /edge /edge
WORKDIR /edge
USER 10001:10001
EXPOSE 8080 8443
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9105/healthz', timeout=2)"]
ENTRYPOINT ["python", "start.py"]
CMD ["--concurrency", "2", "--log-level", "warning", "--drain-time-s", "30", "--disable-hot-restart"]

# Last, so that it is what is built where no target is named.
FROM api-base AS service
ARG SERVICE
COPY --from=build /app/venv /app/venv
COPY services/${SERVICE} /app/service
# Memory of large requests goes back to the system at once: by default glibc keeps what it expects to need again.
ENV SERVICE=${SERVICE} PYTHONPATH=/app/service MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TRIM_THRESHOLD_=65536
USER 10001:10001
EXPOSE 50051 9101
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["python", "-c", "import os; from urllib.request import urlopen; \
    urlopen('http://127.0.0.1:' + os.environ[os.environ['SERVICE'].upper() + '_SERVER_OPERATIONS_PORT'] + '/readyz', timeout=5)"]
# The shell is gone before the service starts: it is process 1 and gets the signals. `migrate` is an argument.
ENTRYPOINT ["/bin/sh", "-c", "exec python -m \"${SERVICE}_service\" \"$@\"", "service"]
