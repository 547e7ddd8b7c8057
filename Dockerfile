# syntax=docker/dockerfile:1

# The smallest of NVIDIA's CUDA runtime images: PyTorch's wheels bring cuBLAS, cuDNN, NCCL and the rest themselves, for this CUDA
# release.  It also runs where there is no GPU.
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${CUDA_IMAGE} AS base
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*

# Our own wheel, with a compiler at hand that the image itself does without.
FROM base AS wheel
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev
RUN python3 -m venv /opt/build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip /opt/build/bin/pip wheel --no-deps --wheel-dir /dist .

FROM base
RUN useradd --uid 10001 --user-group --home-dir /var/lib/thanoproxy --create-home --shell /usr/sbin/nologin thanoproxy \
 && install --directory --owner thanoproxy --group thanoproxy --mode 0700 /var/lib/thanoproxy \
 && install --directory /images /weights

RUN python3 -m venv /opt/thanoproxy
# XDG_DATA_HOME puts what the program keeps into /var/lib/thanoproxy, where the volume is.
ENV PATH=/opt/thanoproxy/bin:$PATH PYTHONUNBUFFERED=1 XDG_DATA_HOME=/var/lib

# The dependencies are a layer of their own: several GB that a change of the sources does not build and push again.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=pyproject.toml,target=/src/pyproject.toml \
    python -c "import tomllib; p = tomllib.load(open('/src/pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['remote'], sep='\n')" > /tmp/requirements.txt \
 && pip install --disable-pip-version-check --requirement /tmp/requirements.txt \
 && rm /tmp/requirements.txt
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist pip install --disable-pip-version-check --no-deps /dist/*.whl

USER thanoproxy
WORKDIR /var/lib/thanoproxy
VOLUME /var/lib/thanoproxy
EXPOSE 7432
STOPSIGNAL SIGTERM

# Asks for TLS as every client may; a single byte, S or N, is the answer of a server that serves.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import socket; s = socket.create_connection(('127.0.0.1', 7432), 4); s.sendall(bytes.fromhex('0000000804d2162f')); raise SystemExit(s.recv(1) not in (b'S', b'N'))"]

ENTRYPOINT ["thanoproxy"]
CMD ["serve", "--listen", "0.0.0.0:7432", "--image-root", "/images", "--weights-root", "/weights"]
