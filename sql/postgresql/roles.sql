-- Who may do what in an outbox on PostgreSQL?
--
-- Optional. Run it after `poller migrate`, as the owner of the tables with the right to create roles, with the
-- outbox's schema first in the search path:  psql -v ON_ERROR_STOP=1 --single-transaction -f roles.sql
-- It may be repeated. The roles can't log in: grant them to users, such as  GRANT outbox_app TO webshop;
--
--   outbox_app     an application: INSERTs what it may write, reads what became of it; no addresses, no bodies
--   outbox_reader  support and dashboards: everything but bodies, variables, attachments and secrets
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

-- An application. SELECT is for INSERT ... ON CONFLICT (dedupe_key) DO NOTHING RETURNING id.
GRANT INSERT (recipients, cc, bcc, sender, reply_to, envelope_from, subject, body_text, body_html, template, context,
              locale, headers, message_id, batch, priority, due_at, expires_at, dedupe_key, on_doubt, max_attempts, relay,
              created_at),
      SELECT (id, dedupe_key)
    ON outbox TO outbox_app;
GRANT INSERT (outbox_id, name, content_type, content, content_id), SELECT (id) ON outbox_attachment TO outbox_app;
GRANT SELECT ON outbox_state TO outbox_app;

-- A reader. Not body_text, body_html, context; not outbox_meta, which holds the secret behind Message-IDs.
GRANT SELECT (id, status, priority, due_at, expires_at, recipients, cc, bcc, sender, reply_to, envelope_from, subject,
              template, locale, headers, message_id, batch, dedupe_key, on_doubt, max_attempts, relay, created_at, domain,
              attempts, doubts, first_attempt_at, claim_seq, claimed_by, claimed_at, reply_code, reply_status, reply_text,
              queue_id, error, sent_at, finished_at, updated_at)
    ON outbox TO outbox_reader;
GRANT SELECT (id, outbox_id, name, content_type, content_id) ON outbox_attachment TO outbox_reader;
GRANT SELECT ON outbox_recipient, outbox_attempt, outbox_suppression, outbox_worker, outbox_throttle TO outbox_reader;
GRANT SELECT ON outbox_rows, outbox_files, outbox_recipients, outbox_attempts, outbox_suppressions, outbox_workers, outbox_throttles
    TO outbox_reader;
GRANT SELECT ON outbox_now, outbox_stuck, outbox_failed_today, outbox_batch_progress, outbox_domains, outbox_throttled, outbox_state
    TO outbox_reader;

-- The poller. History is append-only: DELETE is for retention.
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox, outbox_recipient, outbox_suppression, outbox_worker, outbox_throttle, outbox_meta
    TO outbox_poller;
GRANT SELECT, INSERT, DELETE ON outbox_attachment, outbox_attempt TO outbox_poller;
GRANT SELECT ON outbox_now, outbox_stuck, outbox_failed_today, outbox_batch_progress, outbox_domains, outbox_throttled, outbox_state
    TO outbox_poller;
