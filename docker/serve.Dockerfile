# Triton with what the generated Python models import. NOT BUILT by the authors: no builder was at
# hand. examples/triton/compose.yaml uses it; engines need the TensorRT of this very image.
FROM nvcr.io/nvidia/tritonserver:25.10-py3
RUN pip install --no-cache-dir 'numpy>=2.0' 'tokenizers>=0.22' 'av>=14.1' 'pillow>=10'
USER 1000
EXPOSE 8000 8001 8002
CMD ["tritonserver", "--model-repository=/models", "--exit-on-error=true"]
