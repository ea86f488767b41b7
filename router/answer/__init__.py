"""From token ids to what the client reads."""
