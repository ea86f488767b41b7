"""The data plane's transports: one seam (`base`), one module a transport. Torch-free: they deal in bytes."""
