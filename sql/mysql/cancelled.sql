-- UPDATE outbox SET status = 'cancelled' is enough: the end is entered here, unless the row is in a worker's hands, which
-- enters it.
--
-- `poller migrate` applies it where it may. With a binary log a server lets only a user with SUPER make a trigger, unless
-- log_bin_trust_function_creators is on: then such a user runs this file, once. Without it rows that plain SQL cancels keep
-- an empty finished_at. Undo it with  DROP TRIGGER outbox_cancelled;

CREATE TRIGGER IF NOT EXISTS outbox_cancelled BEFORE UPDATE ON outbox FOR EACH ROW
SET NEW.updated_at = IF(NEW.status = 'cancelled' AND NEW.claimed_by IS NULL AND NEW.finished_at IS NULL, UTC_TIMESTAMP(6), NEW.updated_at),
    NEW.finished_at = IF(NEW.status = 'cancelled' AND NEW.claimed_by IS NULL AND NEW.finished_at IS NULL, UTC_TIMESTAMP(6), NEW.finished_at);
