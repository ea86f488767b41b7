"""One request on its way through the servers."""
