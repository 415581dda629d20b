"""What the demo mails: rows as an application would INSERT them, in plain SQL.

`rows` has every kind of row and the three that do not go straight through; `files` makes a PNG and a PDF on the spot;
`templates/` are the Jinja2 templates that some rows name.
"""
