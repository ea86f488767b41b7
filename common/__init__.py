"""What the three services share: the wire, configuration, errors, metrics, and the model classes."""

__version__ = "0.1.0"
