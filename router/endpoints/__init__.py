"""The HTTP APIs that generate text: what each of them takes, does and shows."""
