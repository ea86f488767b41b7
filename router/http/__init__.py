"""HTTP: paths, bodies, keys, and how one exchange runs."""
