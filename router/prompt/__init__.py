"""From messages to token ids and spans."""
