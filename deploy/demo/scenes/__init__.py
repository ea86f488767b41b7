"""Pictures drawn by code, questions about them, and the frozen set of both that a checkpoint is judged by."""
