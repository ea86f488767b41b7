"""The encode server: images and videos in, embeddings out to language servers."""
