"""`epd check`: an image through every pair of servers behind a router, and what is wrong where."""
