"""The terminal chat: a Textual app, one widget a file. `kosent chat` opens it."""
