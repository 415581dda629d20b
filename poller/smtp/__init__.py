"""The wire: a conversation without I/O, the connection that owns the socket, and the courier over both."""
