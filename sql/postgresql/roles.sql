-- Who may do what in an outbox on PostgreSQL?
--
-- Optional. Run it after `poller migrate`, as the owner of the tables with the right to create roles, with the
-- outbox's schema first in the search path:  psql -v ON_ERROR_STOP=1 --single-transaction -f roles.sql
-- It may be repeated. The roles can't log in: grant them to users, such as  GRANT outbox_app TO webshop;
--
--   outbox_app     an application: INSERTs what it may write, reads what became of it, cancels or replaces what still waits;
--                  no addresses, no bodies, no other application's rows
--   outbox_reader  support and dashboards: everything but bodies, kept content, variables, attachments and secrets
--   outbox_poller  the service and its commands; no DDL: `poller migrate` needs the owner

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['outbox_app', 'outbox_reader', 'outbox_poller'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role);
    END LOOP;
END
$$;

-- Nobody who may connect makes functions where the poller's statements look for theirs. PostgreSQL 15 has it so from the start.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- An application. SELECT is for INSERT ... ON CONFLICT DO NOTHING RETURNING id.
GRANT INSERT (recipients, cc, bcc, sender, reply_to, envelope_from, subject, body_text, body_html, template, context,
              locale, headers, list, raw, dsn, message_id, batch, priority, due_at, expires_at, dedupe_key, on_doubt, max_attempts, relay,
              created_at),
      SELECT (id)
    ON outbox TO outbox_app;
GRANT INSERT (outbox_id, name, content_type, content, content_id, blob_sha256, path, part), SELECT (id) ON outbox_attachment TO outbox_app;
GRANT INSERT (sha256, content), SELECT (sha256) ON outbox_blob TO outbox_app;
GRANT SELECT ON outbox_state TO outbox_app;
GRANT SELECT, INSERT, DELETE ON outbox_unsubscribed TO outbox_app;

-- Its files are for its own rows: a file of somebody else's would go out with the message.
CREATE OR REPLACE FUNCTION outbox_own_files() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    writer text;
BEGIN
    IF has_column_privilege(session_user, TG_RELID, 'content', 'SELECT') THEN
        RETURN NEW;  -- the poller, or the owner
    END IF;
    EXECUTE format('SELECT created_by FROM %I.outbox WHERE id = $1', TG_TABLE_SCHEMA) INTO writer USING NEW.outbox_id;
    IF writer <> session_user THEN
        RAISE insufficient_privilege USING MESSAGE = format('permission denied for row %s of outbox: another user wrote it', NEW.outbox_id);
    END IF;
    RETURN NEW;
END
$$;
DROP TRIGGER IF EXISTS outbox_own_files ON outbox_attachment;
CREATE TRIGGER outbox_own_files BEFORE INSERT ON outbox_attachment FOR EACH ROW EXECUTE FUNCTION outbox_own_files();

-- What waits under a key can be cancelled or replaced by who wrote it: nothing else of a row, and no other's row. The
-- replaced one gives its key up and stays, unless it may have been delivered to somebody.
DO $$
BEGIN
    EXECUTE format($make$
        CREATE OR REPLACE FUNCTION %1$I.outbox_cancel(key text) RETURNS void LANGUAGE sql SECURITY DEFINER
            SET search_path = pg_catalog, pg_temp AS $body$
            UPDATE %1$I.outbox SET status = 'cancelled', error = 'cancelled by the application'
            WHERE dedupe_key = key AND created_by = session_user AND status IN ('queued', 'paused') AND claimed_by IS NULL
        $body$;
        CREATE OR REPLACE FUNCTION %1$I.outbox_replace(key text) RETURNS void LANGUAGE sql SECURITY DEFINER
            SET search_path = pg_catalog, pg_temp AS $body$
            UPDATE %1$I.outbox SET status = 'cancelled', dedupe_key = NULL, error = 'replaced by the application'
            WHERE dedupe_key = key AND created_by = session_user AND status = 'queued' AND claimed_by IS NULL AND doubts = 0
            AND NOT EXISTS (SELECT 1 FROM %1$I.outbox_recipient AS r
                            WHERE r.outbox_id = outbox.id AND r.status IN ('sent', 'in_doubt'))
        $body$;
    $make$, current_schema());
END
$$;
REVOKE ALL ON FUNCTION outbox_cancel(text), outbox_replace(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox_cancel(text), outbox_replace(text) TO outbox_app;

-- A reader. Not body_text, body_html, context, raw; not outbox_meta, which holds the secret behind Message-IDs.
GRANT SELECT (id, status, priority, due_at, expires_at, recipients, cc, bcc, sender, reply_to, envelope_from, subject,
              template, locale, headers, list, message_id, batch, dedupe_key, on_doubt, max_attempts, relay, created_at, created_by,
              domain, attempts, doubts, first_attempt_at, claim_seq, claimed_by, claimed_at, reply_code, reply_status, reply_text,
              queue_id, error, sent_at, finished_at, updated_at)
    ON outbox TO outbox_reader;
GRANT SELECT (id, outbox_id, name, content_type, content_id, blob_sha256, path, part) ON outbox_attachment TO outbox_reader;
GRANT SELECT ON outbox_recipient, outbox_attempt, outbox_suppression, outbox_worker, outbox_throttle, outbox_batch TO outbox_reader;
GRANT SELECT ON outbox_rows, outbox_files, outbox_recipients, outbox_attempts, outbox_suppressions, outbox_workers, outbox_throttles, outbox_batches
    TO outbox_reader;
GRANT SELECT ON outbox_now, outbox_stuck, outbox_failed_today, outbox_batch_progress, outbox_domains, outbox_throttled, outbox_state
    TO outbox_reader;

-- The poller. History is append-only: DELETE is for retention.
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox, outbox_recipient, outbox_content, outbox_suppression, outbox_worker, outbox_throttle, outbox_batch, outbox_meta
    TO outbox_poller;
GRANT SELECT, INSERT, DELETE ON outbox_attachment, outbox_blob, outbox_attempt TO outbox_poller;
GRANT SELECT ON outbox_now, outbox_stuck, outbox_failed_today, outbox_batch_progress, outbox_domains, outbox_throttled, outbox_workers, outbox_state
    TO outbox_poller;
