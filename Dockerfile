# c3s3-seg on a CPU. The image runs without a network, without root and with a read-only root file system:
#
#   docker build -t c3s3-seg .
#   docker run --rm --network none --read-only --tmpfs /tmp --user "$(id -u):$(id -g)" \
#     -v "$PWD/scans:/scans:ro" -v "$PWD/out:/out" c3s3-seg predict /scans -o /out
FROM python:3.12-slim-bookworm AS build

WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY c3s3_seg ./c3s3_seg
RUN python -m venv /opt/c3s3-seg \
    && /opt/c3s3-seg/bin/pip install --no-cache-dir -c constraints.txt . \
    && /opt/c3s3-seg/bin/pip uninstall --yes pip

FROM python:3.12-slim-bookworm

COPY --from=build /opt/c3s3-seg /opt/c3s3-seg
ENV PATH=/opt/c3s3-seg/bin:$PATH \
    HOME=/tmp
# The installation is checked while the image is built: a bundle with a wrong hash stops it.
RUN c3s3-seg doctor
USER 65534:65534
WORKDIR /out
ENTRYPOINT ["c3s3-seg"]
CMD ["--help"]
