"""`epd top`: what routers and servers are doing, from their metrics."""
