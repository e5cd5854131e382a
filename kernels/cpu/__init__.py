"""The compiled steps of the CPU: products, elementary functions, fused operations, training."""
