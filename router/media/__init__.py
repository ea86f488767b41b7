"""Media of a request: fetched, hashed, remembered."""
