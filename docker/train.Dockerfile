# Pre-training on NVIDIA GPUs. NOT BUILT by the authors: no builder was at hand.
#   docker build -f docker/train.Dockerfile -t simvtp .
#   docker run --gpus all --shm-size 8g -v $PWD/runs:/home/simvtp/runs simvtp
FROM python:3.11-slim-bookworm
WORKDIR /opt/simvtp
COPY pyproject.toml README.md LICENSE ./
COPY simvtp simvtp
COPY export export
RUN pip install --no-cache-dir '.[plots]' && useradd --create-home --uid 1000 simvtp
USER 1000
WORKDIR /home/simvtp
ENTRYPOINT ["python", "-m", "simvtp.pipelines.pretrain"]
