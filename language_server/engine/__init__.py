"""The language engine: `Engine.step()` is schedule, run, postprocess. No sockets, no threads, no processes."""
