"""Pure: a row becomes bytes. Addresses, templates, MIME. No clock, no socket, no database."""
