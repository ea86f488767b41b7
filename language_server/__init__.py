"""The language server: token ids in, token ids out; scheduling, KV cache, decoder, and the inbox for embeddings."""
