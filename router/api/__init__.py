"""What clients send: the shapes of OpenAI's API and what others add to it."""
