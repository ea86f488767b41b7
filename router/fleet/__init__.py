"""The servers behind the router."""
