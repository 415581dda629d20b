"""What the demo is made of: its rows, written in plain SQL, where they lie, and what one sees of them.

`rows` has every kind of row and the three that do not go straight through; `files` makes a PNG and a PDF on the spot;
`templates/` are the Jinja2 templates that some rows name; `place` is the directory and its configuration; `watch` reads
the tables while the service works.
"""
