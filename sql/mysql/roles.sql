-- Who may do what in an outbox on MariaDB?  MySQL 8 takes the same statements, untested.
--
-- Optional. Run it after `poller migrate`, as an administrator, in the outbox's database:  mariadb DATABASE < roles.sql
-- It may be repeated. Grant the roles to users, such as
--   GRANT outbox_app TO webshop@'%';  SET DEFAULT ROLE outbox_app FOR webshop@'%';   (MySQL: SET DEFAULT ROLE ... TO)
-- The views read with the rights of the account that ran `poller migrate`: keep that account.
--
--   outbox_app     an application: INSERTs what it may write, reads what became of it, cancels or replaces what still waits;
--                  no addresses, no bodies, no other application's rows
--   outbox_reader  support and dashboards: everything but bodies, kept content, variables, attachments and secrets
--   outbox_poller  the service and its commands; no DDL: `poller migrate` needs more

CREATE ROLE IF NOT EXISTS outbox_app, outbox_reader, outbox_poller;

-- An application.
GRANT INSERT (recipients, cc, bcc, sender, reply_to, envelope_from, subject, body_text, body_html, template, context,
              locale, headers, list, raw, dsn, message_id, batch, priority, due_at, expires_at, dedupe_key, on_doubt, max_attempts, relay,
              created_at)
    ON outbox TO outbox_app;
GRANT INSERT (outbox_id, name, content_type, content, content_id, blob_sha256, path, part) ON outbox_attachment TO outbox_app;
GRANT INSERT (sha256, content), SELECT (sha256) ON outbox_blob TO outbox_app;
GRANT SELECT ON outbox_state TO outbox_app;
GRANT SELECT, INSERT, DELETE ON outbox_unsubscribed TO outbox_app;

-- Its files are for its own rows: a file of somebody else's would go out with the message. In one statement, so that any client
-- can run it: the text in the place of a number is the error.
DROP TRIGGER IF EXISTS outbox_own_files;
CREATE TRIGGER outbox_own_files BEFORE INSERT ON outbox_attachment FOR EACH ROW SET NEW.outbox_id = IF(
    EXISTS (SELECT 1 FROM outbox AS o WHERE o.id = NEW.outbox_id AND o.created_by
        <> LEFT(USER(), CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1)),
    'access denied: another user wrote the row', NEW.outbox_id);

-- What waits under a key can be found, cancelled or replaced by who wrote it: nothing else of a row, and no other's row. The
-- replaced one gives its key up and stays, unless it may have been delivered to somebody. Each is one statement, as above.
DROP PROCEDURE IF EXISTS outbox_find;
CREATE PROCEDURE outbox_find(IN wanted VARCHAR(255)) SQL SECURITY DEFINER READS SQL DATA
SELECT id FROM outbox WHERE dedupe_key = wanted AND created_by = LEFT(USER(), CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1)
LOCK IN SHARE MODE;
DROP PROCEDURE IF EXISTS outbox_cancel;
CREATE PROCEDURE outbox_cancel(IN wanted VARCHAR(255)) SQL SECURITY DEFINER MODIFIES SQL DATA
UPDATE outbox
SET status = 'cancelled', finished_at = UTC_TIMESTAMP(6), updated_at = UTC_TIMESTAMP(6), error = 'cancelled by the application'
WHERE dedupe_key = wanted AND created_by = LEFT(USER(), CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1)
  AND status IN ('queued', 'paused') AND claimed_by IS NULL;
DROP PROCEDURE IF EXISTS outbox_replace;
CREATE PROCEDURE outbox_replace(IN wanted VARCHAR(255)) SQL SECURITY DEFINER MODIFIES SQL DATA
UPDATE outbox
SET status = 'cancelled', finished_at = UTC_TIMESTAMP(6), updated_at = UTC_TIMESTAMP(6), dedupe_key = NULL,
    error = 'replaced by the application'
WHERE dedupe_key = wanted AND created_by = LEFT(USER(), CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1)
  AND status = 'queued' AND claimed_by IS NULL AND doubts = 0
  AND NOT EXISTS (SELECT 1 FROM outbox_recipient AS r WHERE r.outbox_id = outbox.id AND r.status IN ('sent', 'in_doubt'));
GRANT EXECUTE ON PROCEDURE outbox_find TO outbox_app;
GRANT EXECUTE ON PROCEDURE outbox_cancel TO outbox_app;
GRANT EXECUTE ON PROCEDURE outbox_replace TO outbox_app;

-- A reader: views and no tables. With SELECT on one column of a table one reads all of them by HANDLER, and locks rows
-- with FOR UPDATE. Not body_text, body_html, context, raw; not outbox_meta, which holds the secret behind Message-IDs.
GRANT SELECT ON outbox_rows TO outbox_reader;
GRANT SELECT ON outbox_files TO outbox_reader;
GRANT SELECT ON outbox_recipients TO outbox_reader;
GRANT SELECT ON outbox_attempts TO outbox_reader;
GRANT SELECT ON outbox_suppressions TO outbox_reader;
GRANT SELECT ON outbox_workers TO outbox_reader;
GRANT SELECT ON outbox_throttles TO outbox_reader;
GRANT SELECT ON outbox_batches TO outbox_reader;
GRANT SELECT ON outbox_throttled TO outbox_reader;
GRANT SELECT ON outbox_now TO outbox_reader;
GRANT SELECT ON outbox_stuck TO outbox_reader;
GRANT SELECT ON outbox_failed_today TO outbox_reader;
GRANT SELECT ON outbox_batch_progress TO outbox_reader;
GRANT SELECT ON outbox_domains TO outbox_reader;
GRANT SELECT ON outbox_state TO outbox_reader;

-- The poller. History is append-only: DELETE is for retention.
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox TO outbox_poller;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_recipient TO outbox_poller;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_content TO outbox_poller;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_suppression TO outbox_poller;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_worker TO outbox_poller;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_throttle TO outbox_poller;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_batch TO outbox_poller;
GRANT SELECT ON outbox_throttled TO outbox_poller;
GRANT SELECT ON outbox_workers TO outbox_poller;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_meta TO outbox_poller;
GRANT SELECT, INSERT, DELETE ON outbox_attachment TO outbox_poller;
GRANT SELECT, INSERT, DELETE ON outbox_blob TO outbox_poller;
GRANT SELECT, INSERT, DELETE ON outbox_attempt TO outbox_poller;
GRANT SELECT ON outbox_now TO outbox_poller;
GRANT SELECT ON outbox_stuck TO outbox_poller;
GRANT SELECT ON outbox_failed_today TO outbox_poller;
GRANT SELECT ON outbox_batch_progress TO outbox_poller;
GRANT SELECT ON outbox_domains TO outbox_poller;
GRANT SELECT ON outbox_state TO outbox_poller;
