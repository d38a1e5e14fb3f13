# An exported folder over plain HTTP, on the CPU and without torch. NOT BUILT by the authors: no
# builder was at hand.
#   docker build -f docker/http.Dockerfile -t simvtp-http .
#   docker run -p 127.0.0.1:8000:8000 -e SIMVTP_SERVE_TOKEN -v $PWD/exported:/model:ro simvtp-http
FROM python:3.11-slim-bookworm
WORKDIR /opt/simvtp
COPY pyproject.toml README.md LICENSE ./
COPY simvtp simvtp
COPY export export
RUN pip install --no-cache-dir --no-deps . && pip install --no-cache-dir 'numpy>=2.0' \
    'onnxruntime>=1.22' 'tokenizers>=0.22' 'av>=14.1' 'pillow>=10' 'pebble>=5.1' 'rich>=13' \
    'filelock>=3.16' 'fastapi>=0.116' 'uvicorn>=0.35' 'prometheus-client>=0.21' \
    'python-multipart>=0.0.27' && useradd --create-home --uid 1000 simvtp
USER 1000
EXPOSE 8000
ENTRYPOINT ["python", "-m", "simvtp.pipelines.serve", "--host=0.0.0.0", "--name=simvtp"]
CMD ["--model=/model"]
