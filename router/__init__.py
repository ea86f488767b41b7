"""The router: OpenAI-style HTTP in front, encode and language servers behind. It never touches a tensor."""
