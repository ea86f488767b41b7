"""The demo: a small checkpoint, sample images, and the code that made them."""
