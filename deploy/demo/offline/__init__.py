"""The frozen questions without servers: with broken deepstack levels, and to compare ways through the system."""
