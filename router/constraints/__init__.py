"""Grammars that the language servers hold an answer to."""
