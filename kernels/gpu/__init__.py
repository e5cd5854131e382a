"""The GPU: CUDA sources, and what launches them and cuBLASLt."""
