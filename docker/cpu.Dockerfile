# docker build -f docker/cpu.Dockerfile -t mel-ray:cpu .   (not built yet)
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make g++ libnuma1 && rm -rf /var/lib/apt/lists/*
WORKDIR /mel_ray
COPY . .
RUN MEL_RAY_EXTRA=cpu make setup
ENV PATH=/mel_ray/.venv/bin:$PATH
CMD ["python", "-m", "mel_ray.main"]
