"""Pure: a row becomes bytes. Addresses, templates, MIME. No clock, no socket, no database.

A `Composer` turns a `Draft` (the row) into its `Recipient`s and a `Composed` (finished bytes), or raises `Unsendable`.
The same draft, templates and settings give the same bytes, so that a message can be made again after a crash.

    composer     the order of things: what is read, checked, written
    templates    Jinja2, with the reader's language; `rendering` keeps what they gave
    text         HTML to plain text
    mailing_list what a mailing list adds: header fields, the link to leave it; `list_settings`
    addresses    address lists; `domains` below them
    characters   what may stand in a header, in a body
    fields       header fields and folding; `headers` the column of extra ones; `words` encoded words
    parts        MIME
    whole        a message that came whole; `delivery_status` its DSN parameters
"""
