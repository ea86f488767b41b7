"""Trains the demo's checkpoint: `python -m deploy.demo.train --out DIR`."""
