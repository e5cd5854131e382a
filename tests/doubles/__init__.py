"""Stand-ins for what this machine may lack: a device, its streams and graphs, cuBLASLt, nvcc."""
