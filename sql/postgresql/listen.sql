-- How does a worker hear of a new row at once, on PostgreSQL, instead of at its next look?
--
-- Optional, for `[poll] listen = true`. `poller migrate` applies it then; by hand, after the numbered files, with the
-- outbox's schema first in the search path:  psql -v ON_ERROR_STOP=1 --single-transaction -f listen.sql
-- It may be repeated. Undo it with  DROP TRIGGER outbox_heard ON outbox;
--
-- The price: a transaction that INSERTs takes a lock at COMMIT that others who notify wait for, one by one. It is held
-- briefly, and does not matter below some thousand commits a second. Looking stays the truth: a notification that is
-- lost costs a worker `[poll] interval`, nothing else.

CREATE OR REPLACE FUNCTION outbox_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('outbox', TG_TABLE_SCHEMA);
    RETURN NULL;
END
$$;

-- Once for each statement, not for each row; the same news twice in one transaction is sent once.
DROP TRIGGER IF EXISTS outbox_heard ON outbox;
CREATE TRIGGER outbox_heard AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION outbox_notify();
