# c3s3-seg on a CPU. The image runs without a network, without root and with a read-only root file system:
#
#   docker build -t c3s3-seg --build-arg REVISION="$(git rev-parse HEAD)" .
#   mkdir -p out
#   docker run --rm --network none --read-only --tmpfs /tmp --user "$(id -u):$(id -g)" \
#     --memory 4g -e C3S3_SEG_MAX_MEMORY=3GB \
#     -v "$PWD/scans:/scans:ro" -v "$PWD/out:/out" c3s3-seg predict /scans -o /out
#
# Docker would make a missing `out` for root, and the command could not write to it.
# Memory: a scan that does not fit into the container is refused when it is read. The tiles of the network follow
# C3S3_SEG_MAX_MEMORY: set it below the limit of the container.
# Settings: every C3S3_SEG_ variable of docs/configuration.md with -e; a configuration file with
# -v "$PWD/c3s3-seg.toml:/etc/c3s3-seg.toml:ro" -e C3S3_SEG_CONFIG=/etc/c3s3-seg.toml.
# No HEALTHCHECK: a command runs to its end, and its exit code says how it went.

# A tag may be moved to another image. To pin the base, give the digest that `docker buildx imagetools inspect
# python:3.12-slim-bookworm` shows: --build-arg BASE_DIGEST=@sha256:... It is empty here because it was not
# looked up: these files were written without access to a registry of images.
ARG BASE_DIGEST=
FROM python:3.12-slim-bookworm${BASE_DIGEST} AS build

# Extras of pyproject.toml, with commas: `train` (then torch is installed too), `onnx`, ...; empty for none.
ARG EXTRAS=report,pacs
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY c3s3_seg ./c3s3_seg
RUN python -m venv /opt/c3s3-seg \
    && /opt/c3s3-seg/bin/pip install --no-cache-dir -c constraints.txt ".${EXTRAS:+[${EXTRAS}]}" \
    && /opt/c3s3-seg/bin/pip uninstall --yes pip

FROM python:3.12-slim-bookworm${BASE_DIGEST}

COPY --from=build /opt/c3s3-seg /opt/c3s3-seg
ENV PATH=/opt/c3s3-seg/bin:$PATH \
    HOME=/tmp
# The installation is checked while the image is built: a bundle with a wrong hash stops it.
RUN c3s3-seg doctor
# The licences of the program and of the shipped models; the packages of the base image have their own.
ARG REVISION=unknown
LABEL org.opencontainers.image.title="c3s3-seg" \
      org.opencontainers.image.description="3D medical image segmentation on a CPU. Research use only; not a medical device." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-SA-4.0 AND LicenseRef-research-use" \
      org.opencontainers.image.revision="${REVISION}"
USER 65534:65534
WORKDIR /out
ENTRYPOINT ["c3s3-seg"]
CMD ["--help"]
