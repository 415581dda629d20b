"""An application's side: mail goes into the outbox in the application's own transaction.

Rule 1. Nothing of the service is imported, and no driver: the standard library, and of the sender's rules what reads
        addresses and headers. SQLAlchemy is looked at only where the caller's object comes from it.
Rule 2. Every statement runs on the caller's connection, in his transaction. Nothing is committed or rolled back.
Rule 3. A statement here is one that `outbox_app` (sql/*/roles.sql) may run.

    outbox      `Outbox`: what applications call
    mail        `Mail` and `State`: what goes in, and what is told of it
    refusals    what can be said against it
    apart       an `email.message.EmailMessage` taken apart
    links       the caller's connection, whatever it comes from
    insert      rows go in: one, or a million
    keys        what was written under a dedupe_key: found, cancelled, replaced
"""
