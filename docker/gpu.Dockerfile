# docker build -f docker/gpu.Dockerfile -t mel-ray:gpu .   (not built yet)
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends git make procps python3 python3-venv python3-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /mel_ray
COPY . .
RUN MEL_RAY_EXTRA=gpu make setup
ENV PATH=/mel_ray/.venv/bin:$PATH
CMD ["python", "-m", "mel_ray.main"]
