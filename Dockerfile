# pneumo with DICOM, overlays and the page. Build and use it:
#     docker build -t pneumo .
#     docker run --rm --network none --user "$(id -u)" -v XRAYS:/data:ro -v MODEL:/model:ro -v OUT:/out \
#         pneumo predict model=/model input=/data output=/out/predictions.csv
# XRAYS, MODEL and OUT are folders, as absolute paths.
FROM python:3.13-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY sweeps sweeps
COPY hydra_plugins hydra_plugins
COPY pneumo pneumo
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim-bookworm
COPY --from=build /wheels /wheels
COPY requirements.lock /wheels/
# By the wheel's address, not by the name pneumo: that name on a public index may be somebody else's.
RUN pip install --no-cache-dir --constraint /wheels/requirements.lock \
        "pneumo[dicom,explain,ui] @ file://$(echo /wheels/pneumo-*.whl)" \
    && useradd --create-home --uid 1000 pneumo \
    && install --directory --owner pneumo /out
USER 1000
WORKDIR /out
ENV PNEUMO_CACHE=/tmp/pneumo-cache MPLCONFIGDIR=/tmp/matplotlib
ENTRYPOINT ["pneumo"]
CMD ["--help"]
