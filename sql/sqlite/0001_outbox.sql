-- What does an outbox on SQLite (3.37 or newer) consist of?
--
-- Apply with `poller migrate`, or by hand:  sqlite3 -bail outbox.db < 0001_outbox.sql
-- Applied by hand it enters itself in outbox_meta, and `poller migrate` takes that for done.
-- Times are UTC text such as 2026-11-22 09:30:00 or 2026-11-22 09:30:00.250000: with a blank, not a T, so that they sort.

PRAGMA journal_mode = WAL;

-- Facts about the outbox as a whole: applied migrations, the secret behind Message-IDs, the main switch.
CREATE TABLE outbox_meta (
    -- "migration NNNN_name" (value: SHA-256 of the file, or "by hand"), "message_id_key" (made by migrate, or at the first start),
    -- "paused" (value: why; present while the whole outbox is off).
    name       TEXT NOT NULL PRIMARY KEY,
    value      TEXT NOT NULL,
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now'))
) STRICT;

-- One row, one message. Applications INSERT; poller claims, sends and writes down what became of it.
CREATE TABLE outbox (
    id               INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- queued: waits for due_at -> sending | failed | expired | suppressed; by an operator: paused | cancelled
    -- sending: claimed, may be on the wire -> sent | partial | failed | expired | queued | in_doubt;
    --          by an operator: paused | cancelled
    -- sent: every recipient accepted by the relay. partial: some accepted, the others refused, expired or given up
    -- failed: refused for good, unsendable, out of attempts or time
    -- in_doubt: may have been delivered; a person decides (poller resolve)
    -- paused: held by an operator -> queued | cancelled. cancelled: by an operator
    -- expired: too late. suppressed: every recipient stands in outbox_suppression
    status           TEXT    NOT NULL DEFAULT 'queued',
    -- 0 first ... 9 last
    priority         INTEGER NOT NULL DEFAULT 5,
    -- Not before. The poller moves it only for this row's own retries.
    due_at           TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    -- Not after: judged at the claim and again just before the wire.
    expires_at       TEXT,
    -- To: comma-separated addresses, RFC 5322. One of recipients, cc, bcc is enough. bcc is never named in the message.
    recipients       TEXT,
    cc               TEXT,
    bcc              TEXT,
    sender           TEXT,
    reply_to         TEXT,
    -- Bounce address; NULL: the sender's, empty: the null reverse-path <>.
    envelope_from    TEXT,
    subject          TEXT,
    body_text        TEXT,
    body_html        TEXT,
    -- Name of a template, instead of body_text and body_html; context holds its variables, locale the language to prefer.
    template         TEXT,
    context          TEXT,
    locale           TEXT,
    -- Extra header fields: {"Name": "value"} or {"Name": ["value", ...]}.
    headers          TEXT,
    -- A complete message (RFC 5322), instead of subject, bodies and template: it goes out as it is, to recipients, cc and bcc; what it lacks of Date, Message-ID and From is added.
    raw              BLOB,
    -- Of a raw message: the DSN parameters it was submitted with (RFC 3461), for a relay that takes them: {"mail": "RET=HDRS ENVID=x", "rcpt": {"a@example.com": "NOTIFY=NEVER"}}.
    dsn              TEXT,
    -- The mailing list that the row is for, a name of [lists."name"]; it brings the header fields for unsubscribing. NULL: none.
    list             TEXT,
    -- Fixed at the first claim, the same for every attempt.
    message_id       TEXT,
    -- A label that groups rows: a campaign, a nightly run.
    batch            TEXT,
    -- Unique while the row exists, compared byte by byte.
    dedupe_key       TEXT,
    -- When the last reply was lost: resend or hold; NULL: as configured.
    on_doubt         TEXT,
    max_attempts     INTEGER,
    relay            TEXT,
    created_at       TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    -- The database user who wrote the row. SQLite has none.
    created_by       TEXT    NOT NULL DEFAULT '',
    -- Domain of the last address of the first list that has one.
    domain           TEXT GENERATED ALWAYS AS (
        CASE WHEN instr(coalesce(nullif(trim(recipients), ''), nullif(trim(cc), ''), bcc), '@') > 0 THEN
            substr(lower(trim(rtrim(substr(
                replace(coalesce(nullif(trim(recipients), ''), nullif(trim(cc), ''), bcc),
                        rtrim(coalesce(nullif(trim(recipients), ''), nullif(trim(cc), ''), bcc),
                              replace(coalesce(nullif(trim(recipients), ''), nullif(trim(cc), ''), bcc), '@', '')), ''),
                1, instr(
                replace(coalesce(nullif(trim(recipients), ''), nullif(trim(cc), ''), bcc),
                        rtrim(coalesce(nullif(trim(recipients), ''), nullif(trim(cc), ''), bcc),
                              replace(coalesce(nullif(trim(recipients), ''), nullif(trim(cc), ''), bcc), '@', '')), '') || '(', '(') - 1), ',;> '))), 1, 255)
        END
    ) VIRTUAL,
    -- Of a row with one address, that one, in lower case: poller find. Of several each stands in outbox_recipient, from the
    -- first attempt on.
    address          TEXT GENERATED ALWAYS AS (
        substr(lower(trim(substr(substr(coalesce(nullif(recipients, ''), nullif(cc, ''), bcc), instr(coalesce(nullif(recipients, ''), nullif(cc, ''), bcc), '<') + 1), 1,
            instr(substr(coalesce(nullif(recipients, ''), nullif(cc, ''), bcc), instr(coalesce(nullif(recipients, ''), nullif(cc, ''), bcc), '<') + 1) || '>', '>') - 1))), 1, 320)
    ) VIRTUAL,
    -- The relay that the row names and the address of its sender: the limits that it falls under beside its destination's.
    lane             TEXT GENERATED ALWAYS AS (
        substr(coalesce(relay, '') || ' ' || lower(trim(substr(
            substr(coalesce(sender, ''), instr(coalesce(sender, ''), '<') + 1),
            1, instr(substr(coalesce(sender, ''), instr(coalesce(sender, ''), '<') + 1) || '>', '>') - 1))), 1, 400)
    ) VIRTUAL,
    -- Batch, template and sender: what takes turns within one priority, so that nobody's million delays another's one.
    flow             TEXT GENERATED ALWAYS AS (
        substr(coalesce(batch, ''), 1, 100) || ' ' || substr(coalesce(template, ''), 1, 60) || ' '
            || substr(coalesce(sender, ''), 1, 90)
    ) VIRTUAL,
    -- Attempts that were this message's own; trouble of the session or the relay costs none.
    attempts         INTEGER NOT NULL DEFAULT 0,
    -- How often the final reply was lost.
    doubts           INTEGER NOT NULL DEFAULT 0,
    -- How often trouble of the session or the relay interrupted this very row, at no cost to it.
    setbacks         INTEGER NOT NULL DEFAULT 0,
    -- The Date header and the age that gives up count from here.
    first_attempt_at TEXT,
    -- With id and message_id the fence: only the claim that sent a message may write its outcome.
    claim_seq        INTEGER NOT NULL DEFAULT 0,
    -- outbox_worker.name of the worker that holds the row, or held it when it ended.
    claimed_by       TEXT,
    claimed_at       TEXT,
    -- Last SMTP reply: 250, 450, 550 ...; reply_status its enhanced code, reply_text its words.
    reply_code       INTEGER,
    reply_status     TEXT,
    reply_text       TEXT,
    -- The relay's own queue id: search its log for it.
    queue_id         TEXT,
    -- Why it is not simply sent, in words.
    error            TEXT,
    sent_at          TEXT,
    finished_at      TEXT,
    updated_at       TEXT,

    CONSTRAINT outbox_dedupe_key_is_unique UNIQUE (dedupe_key),
    CONSTRAINT outbox_status_is_known CHECK (status IN
        ('queued', 'sending', 'sent', 'partial', 'failed', 'in_doubt', 'paused', 'cancelled', 'expired', 'suppressed')),
    CONSTRAINT outbox_priority_is_0_to_9 CHECK (priority BETWEEN 0 AND 9),
    CONSTRAINT outbox_has_a_recipient CHECK
        (trim(coalesce(recipients, '') || coalesce(cc, '') || coalesce(bcc, '')) <> ''),
    -- Retention may empty the bodies of finished rows.
    CONSTRAINT outbox_has_a_body_or_template CHECK
        (body_text IS NOT NULL OR body_html IS NOT NULL OR template IS NOT NULL OR raw IS NOT NULL
         OR status IN ('sent', 'partial', 'failed', 'cancelled', 'expired', 'suppressed')),
    CONSTRAINT outbox_body_or_template_not_both CHECK
        (template IS NULL OR (body_text IS NULL AND body_html IS NULL)),
    CONSTRAINT outbox_raw_is_the_whole_message CHECK
        (raw IS NULL OR (typeof(raw) = 'blob'
         AND body_text IS NULL AND body_html IS NULL AND template IS NULL AND headers IS NULL AND reply_to IS NULL)),
    CONSTRAINT outbox_dsn_is_an_object_beside_raw CHECK
        (dsn IS NULL OR (raw IS NOT NULL AND json_valid(dsn) AND json_type(dsn) = 'object')),
    -- Every write of the poller names it: text that can't be read back as it is would never match.
    CONSTRAINT outbox_message_id_is_ascii CHECK (message_id NOT GLOB '*[^ -~]*' AND length(CAST(message_id AS BLOB)) = length(message_id)),
    CONSTRAINT outbox_context_is_an_object CHECK (context IS NULL OR (json_valid(context) AND json_type(context) = 'object')),
    CONSTRAINT outbox_headers_is_an_object CHECK (headers IS NULL OR (json_valid(headers) AND json_type(headers) = 'object')),
    CONSTRAINT outbox_dedupe_key_is_not_empty CHECK (dedupe_key <> ''),
    CONSTRAINT outbox_on_doubt_is_known CHECK (on_doubt IN ('resend', 'hold')),
    CONSTRAINT outbox_max_attempts_is_positive CHECK (max_attempts > 0),
    CONSTRAINT outbox_counts_are_not_negative CHECK (attempts >= 0 AND doubts >= 0 AND setbacks >= 0 AND claim_seq >= 0),
    CONSTRAINT outbox_due_at_is_a_time CHECK (due_at GLOB '[1-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'
        AND (length(due_at) = 19 OR (due_at GLOB '*.[0-9]*' AND ltrim(substr(due_at, 20, 1), '.') = '' AND ltrim(substr(due_at, 21), '0123456789') = ''))
        AND strftime('%Y-%m-%d %H:%M:%S', substr(due_at, 1, 19), '+0 days') IS substr(due_at, 1, 19)),
    CONSTRAINT outbox_expires_at_is_a_time CHECK (expires_at IS NULL OR (expires_at GLOB '[1-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'
        AND (length(expires_at) = 19 OR (expires_at GLOB '*.[0-9]*' AND ltrim(substr(expires_at, 20, 1), '.') = '' AND ltrim(substr(expires_at, 21), '0123456789') = ''))
        AND strftime('%Y-%m-%d %H:%M:%S', substr(expires_at, 1, 19), '+0 days') IS substr(expires_at, 1, 19))),
    CONSTRAINT outbox_created_at_is_a_time CHECK (created_at GLOB '[1-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'
        AND (length(created_at) = 19 OR (created_at GLOB '*.[0-9]*' AND ltrim(substr(created_at, 20, 1), '.') = '' AND ltrim(substr(created_at, 21), '0123456789') = ''))
        AND strftime('%Y-%m-%d %H:%M:%S', substr(created_at, 1, 19), '+0 days') IS substr(created_at, 1, 19)),
    CONSTRAINT outbox_first_attempt_at_is_a_time CHECK (first_attempt_at IS NULL OR (first_attempt_at GLOB '[1-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'
        AND (length(first_attempt_at) = 19 OR (first_attempt_at GLOB '*.[0-9]*' AND ltrim(substr(first_attempt_at, 20, 1), '.') = '' AND ltrim(substr(first_attempt_at, 21), '0123456789') = ''))
        AND strftime('%Y-%m-%d %H:%M:%S', substr(first_attempt_at, 1, 19), '+0 days') IS substr(first_attempt_at, 1, 19))),
    CONSTRAINT outbox_claimed_at_is_a_time CHECK (claimed_at IS NULL OR (claimed_at GLOB '[1-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'
        AND (length(claimed_at) = 19 OR (claimed_at GLOB '*.[0-9]*' AND ltrim(substr(claimed_at, 20, 1), '.') = '' AND ltrim(substr(claimed_at, 21), '0123456789') = ''))
        AND strftime('%Y-%m-%d %H:%M:%S', substr(claimed_at, 1, 19), '+0 days') IS substr(claimed_at, 1, 19))),
    CONSTRAINT outbox_sent_at_is_a_time CHECK (sent_at IS NULL OR (sent_at GLOB '[1-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'
        AND (length(sent_at) = 19 OR (sent_at GLOB '*.[0-9]*' AND ltrim(substr(sent_at, 20, 1), '.') = '' AND ltrim(substr(sent_at, 21), '0123456789') = ''))
        AND strftime('%Y-%m-%d %H:%M:%S', substr(sent_at, 1, 19), '+0 days') IS substr(sent_at, 1, 19))),
    CONSTRAINT outbox_finished_at_is_a_time CHECK (finished_at IS NULL OR (finished_at GLOB '[1-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'
        AND (length(finished_at) = 19 OR (finished_at GLOB '*.[0-9]*' AND ltrim(substr(finished_at, 20, 1), '.') = '' AND ltrim(substr(finished_at, 21), '0123456789') = ''))
        AND strftime('%Y-%m-%d %H:%M:%S', substr(finished_at, 1, 19), '+0 days') IS substr(finished_at, 1, 19))),
    CONSTRAINT outbox_updated_at_is_a_time CHECK (updated_at IS NULL OR (updated_at GLOB '[1-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'
        AND (length(updated_at) = 19 OR (updated_at GLOB '*.[0-9]*' AND ltrim(substr(updated_at, 20, 1), '.') = '' AND ltrim(substr(updated_at, 21), '0123456789') = ''))
        AND strftime('%Y-%m-%d %H:%M:%S', substr(updated_at, 1, 19), '+0 days') IS substr(updated_at, 1, 19))),
    CONSTRAINT outbox_sending_has_a_claim CHECK
        (status <> 'sending' OR (claimed_by IS NOT NULL AND claimed_at IS NOT NULL AND message_id IS NOT NULL AND claim_seq > 0)),
    CONSTRAINT outbox_sent_has_a_time CHECK (status NOT IN ('sent', 'partial') OR sent_at IS NOT NULL),
    CONSTRAINT outbox_queued_is_unclaimed_and_unsent CHECK
        (status <> 'queued' OR (claimed_by IS NULL AND claimed_at IS NULL AND sent_at IS NULL)),
    -- What was sent can't be held or cancelled any more, and what is open has not ended.
    CONSTRAINT outbox_held_is_unsent CHECK (status NOT IN ('sending', 'paused', 'cancelled') OR sent_at IS NULL),
    CONSTRAINT outbox_open_is_unfinished CHECK (status NOT IN ('queued', 'sending', 'paused', 'in_doubt') OR finished_at IS NULL)
) STRICT;

-- The claim asks per priority: "due now, oldest first".
CREATE INDEX outbox_due ON outbox (priority, due_at, id, claim_seq) WHERE status = 'queued';
-- The same within one destination, for those that are paced.
CREATE INDEX outbox_due_by_domain ON outbox (domain, priority, due_at, id, claim_seq) WHERE status = 'queued';
-- The same from one sender or for one relay.
CREATE INDEX outbox_due_by_lane ON outbox (lane, priority, due_at, id) WHERE status = 'queued';
-- The same of one flow: flows take turns.
CREATE INDEX outbox_due_by_flow ON outbox (flow, priority, due_at, id) WHERE status = 'queued';
-- Which rows does a worker hold?
CREATE INDEX outbox_held ON outbox (claimed_by) WHERE claimed_by IS NOT NULL AND status IN ('sending', 'paused', 'cancelled');
CREATE INDEX outbox_by_batch ON outbox (batch, status, first_attempt_at, finished_at) WHERE batch IS NOT NULL;
CREATE INDEX outbox_by_finish ON outbox (status, finished_at, domain) WHERE finished_at IS NOT NULL;
-- poller find
CREATE INDEX outbox_by_address ON outbox (address, id) WHERE address IS NOT NULL;
CREATE INDEX outbox_by_message_id ON outbox (message_id) WHERE message_id IS NOT NULL;
CREATE INDEX outbox_by_queue_id ON outbox (queue_id) WHERE queue_id IS NOT NULL;

-- UPDATE outbox SET status = 'cancelled' is enough: the end is entered here, unless the row is in a worker's hands, which enters it.
CREATE TRIGGER outbox_cancelled AFTER UPDATE OF status ON outbox
WHEN NEW.status = 'cancelled' AND NEW.claimed_by IS NULL AND NEW.finished_at IS NULL
BEGIN
    UPDATE outbox SET finished_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'), updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')
    WHERE id = NEW.id;
END;
-- What needs a person? Small by nature.
CREATE INDEX outbox_needs_attention ON outbox (status, id) WHERE status IN ('in_doubt', 'paused');

-- Rows with several recipients: the state of each. An accepted one is never sent to again.
CREATE TABLE outbox_recipient (
    outbox_id    INTEGER NOT NULL REFERENCES outbox (id) ON DELETE CASCADE,
    address      TEXT    NOT NULL,
    status       TEXT    NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    doubts       INTEGER NOT NULL DEFAULT 0,
    reply_code   INTEGER,
    reply_status TEXT,
    reply_text   TEXT,
    queue_id     TEXT,
    error        TEXT,
    sent_at      TEXT,
    updated_at   TEXT    NOT NULL,
    PRIMARY KEY (outbox_id, address),
    CONSTRAINT outbox_recipient_status_is_known CHECK (status IN
        ('queued', 'sent', 'failed', 'in_doubt', 'expired', 'suppressed')),
    CONSTRAINT outbox_recipient_sent_has_a_time CHECK (status <> 'sent' OR sent_at IS NOT NULL)
) STRICT;

CREATE INDEX outbox_recipient_by_address ON outbox_recipient (address);

-- Files that several messages carry, once each. Retention deletes what no row names any more, a day after it came.
CREATE TABLE outbox_blob (
    -- Of the content, in hexadecimal: what outbox_attachment.blob_sha256 names it by.
    sha256     TEXT NOT NULL PRIMARY KEY,
    content    BLOB NOT NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'),
    -- SQLite has no hash: the service looks when it reads.
    CONSTRAINT outbox_blob_has_its_hash CHECK (length(sha256) = 64)
) STRICT;

-- Files that travel with a message, in order of id. Insert them in the same transaction as the row.
CREATE TABLE outbox_attachment (
    id           INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    outbox_id    INTEGER NOT NULL REFERENCES outbox (id) ON DELETE CASCADE,
    name         TEXT    NOT NULL,
    content_type TEXT    NOT NULL DEFAULT 'application/octet-stream',
    -- The bytes; or blob_sha256 names a shared file, or path one below [attachments] directory.
    content      BLOB,
    -- For an inline image: the HTML names it as <img src="cid:...">.
    content_id   TEXT,
    blob_sha256  TEXT REFERENCES outbox_blob (sha256),
    path         TEXT,
    -- file, or alternative: another form of the text, as text/calendar; method=REQUEST for an invitation.
    part         TEXT    NOT NULL DEFAULT 'file',
    CONSTRAINT outbox_attachment_has_one_source CHECK ((content IS NOT NULL) + (blob_sha256 IS NOT NULL) + (path IS NOT NULL) = 1),
    CONSTRAINT outbox_attachment_part_is_known CHECK (part IN ('file', 'alternative')),
    CONSTRAINT outbox_attachment_content_id_is_not_empty CHECK (content_id <> '')
) STRICT;

CREATE INDEX outbox_attachment_by_row ON outbox_attachment (outbox_id, id);
CREATE INDEX outbox_attachment_by_blob ON outbox_attachment (blob_sha256) WHERE blob_sha256 IS NOT NULL;

-- What a row was made into, where that is kept: for another try of the same, or as [message] keep_sent says.
CREATE TABLE outbox_content (
    outbox_id  INTEGER NOT NULL PRIMARY KEY REFERENCES outbox (id) ON DELETE CASCADE,
    -- What its template gave when it was first tried, zlib of JSON: subject, text, html. Only while the row may be tried again.
    rendered   BLOB,
    -- Hash of template, context, locale and subject as they were: where one is corrected, the row is rendered anew.
    made_of    TEXT,
    -- Of the bytes that the relay accepted last; in hexadecimal.
    sha256     TEXT,
    -- Those bytes, zlib.
    message    BLOB,
    kept_at    TEXT    NOT NULL,
    CONSTRAINT outbox_content_rendered_says_of_what CHECK ((rendered IS NULL) = (made_of IS NULL)),
    CONSTRAINT outbox_content_message_has_its_hash CHECK (message IS NULL OR sha256 IS NOT NULL)
) STRICT;

CREATE INDEX outbox_content_by_time ON outbox_content (kept_at);

-- History of what did not simply succeed; append-only. Deleting a row of outbox leaves its history.
CREATE TABLE outbox_attempt (
    id           INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    outbox_id    INTEGER NOT NULL,
    claim_seq    INTEGER NOT NULL,
    at           TEXT    NOT NULL,
    worker       TEXT    NOT NULL,
    -- NULL: the whole message.
    recipient    TEXT,
    -- deferred, failed, in_doubt, died (composing it killed the worker), handed_back, accepted (after earlier trouble), accepted_twice, bounced, complained or delayed (what came back later), or an operator's word.
    outcome      TEXT    NOT NULL,
    -- session: the connection or the relay; destination: it takes less than we have; message; recipient; worker: a crash.
    blame        TEXT,
    phase        TEXT,
    -- host:port it was with.
    relay        TEXT,
    reply_code   INTEGER,
    reply_status TEXT,
    reply_text   TEXT,
    queue_id     TEXT,
    error        TEXT
) STRICT;

CREATE INDEX outbox_attempt_by_row ON outbox_attempt (outbox_id, id);

-- Who is not sent to: lower-case addresses, or @domain for all of it. Each line counts by itself.
CREATE TABLE outbox_suppression (
    address    TEXT NOT NULL,
    -- Only mail of this list (outbox.list). Empty: all mail.
    list       TEXT NOT NULL DEFAULT '',
    -- Who says so: operator, bounce, complaint, unsubscribe (the recipient) or application.
    source     TEXT NOT NULL DEFAULT 'operator',
    reason     TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    -- The database user who wrote the line. SQLite has none.
    created_by TEXT NOT NULL DEFAULT '',
    -- From then on it holds no longer. NULL: until it is deleted.
    expires_at TEXT,
    PRIMARY KEY (address, list, source, created_by),
    CONSTRAINT outbox_suppression_source_is_known CHECK
        (source IN ('operator', 'bounce', 'complaint', 'unsubscribe', 'application')),
    -- Anyone who has unsubscribed is written to again when they subscribe again, not when a time is over.
    CONSTRAINT outbox_suppression_unsubscribe_has_no_end CHECK (source <> 'unsubscribe' OR expires_at IS NULL),
    CONSTRAINT outbox_suppression_expires_at_is_a_time CHECK (expires_at IS NULL OR (expires_at GLOB '[1-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'
        AND (length(expires_at) = 19 OR (expires_at GLOB '*.[0-9]*' AND ltrim(substr(expires_at, 20, 1), '.') = '' AND ltrim(substr(expires_at, 21), '0123456789') = ''))
        AND strftime('%Y-%m-%d %H:%M:%S', substr(expires_at, 1, 19), '+0 days') IS substr(expires_at, 1, 19))),
    CONSTRAINT outbox_suppression_address_is_lower_case CHECK (address = lower(address)),
    CONSTRAINT outbox_suppression_has_an_at_sign CHECK (address LIKE '%@%')
) STRICT;

CREATE INDEX outbox_suppression_by_end ON outbox_suppression (expires_at) WHERE expires_at IS NOT NULL;

-- Who works here. After lease_until another worker judges the rows that this one holds.
CREATE TABLE outbox_worker (
    name         TEXT    NOT NULL PRIMARY KEY,
    -- Of its state directory: the same name from another directory is another worker.
    identity     TEXT    NOT NULL,
    -- Grows at each start.
    incarnation  INTEGER NOT NULL,
    host         TEXT    NOT NULL,
    pid          INTEGER NOT NULL,
    version      TEXT    NOT NULL,
    started_at   TEXT    NOT NULL,
    heartbeat_at TEXT    NOT NULL,
    lease_until  TEXT    NOT NULL,
    -- Alive until then, unless the next heartbeat comes: three of them missed is silent.
    silent_from  TEXT,
    stopped_at   TEXT,
    -- What keeps mail from going out, as of the heartbeat; NULL: nothing.
    trouble      TEXT,
    -- What the worker's own journal says up to this position is written down here; what it says beyond is applied again.
    journal_applied INTEGER NOT NULL DEFAULT 0,
    -- The relays that it holds a connection to, of those that limit how many there may be; with spaces between.
    connected_to TEXT
) STRICT;

-- What is paced, paused or slowed, for all workers. A plain UPDATE of pace or paused_until takes effect within seconds;
-- deleting a row forgets what was taken and heard.
CREATE TABLE outbox_throttle (
    -- outbox (name: empty), relay, sender, provider (a group of domains), domain.
    kind          TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    -- What the configuration allows; changed there, not here. NULL: nothing is limited, it was only asked to slow down.
    limits        TEXT,
    -- What a person allows instead (poller limit), live, up or down; NULL: what the configuration allows. In the same words, or "none".
    limit_override TEXT,
    -- Who and when.
    overridden_by TEXT,
    -- 1: at full pace. Less: this share of it, after a reply that asked to slow down; raised again step by step.
    pace          REAL    NOT NULL DEFAULT 1,
    -- Nothing goes before. NULL or past: not paused.
    paused_until  TEXT,
    -- Why it is paused or slow.
    reason        TEXT,
    -- How many messages this relay takes on one connection, as learnt from its replies.
    session_limit INTEGER,
    -- How many recipients this relay takes in one transaction, as learnt from its replies.
    recipient_limit INTEGER,
    -- The most that this relay bears of sending ahead ([smtp] pipelining), as learnt. It stays until a person sets it to NULL.
    pipelining    TEXT,
    -- What showed it.
    pipelining_reason TEXT,
    -- A person has ended its rest (poller retry --relay NAME --now): a worker that sees another time than before rests no more.
    roused_at     TEXT,
    -- What was taken of the limits. JSON, kept by the workers; NULL forgets it.
    slots         TEXT,
    updated_at    TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')),
    PRIMARY KEY (kind, name),
    CONSTRAINT outbox_throttle_kind_is_known CHECK (kind IN ('outbox', 'relay', 'sender', 'provider', 'domain')),
    CONSTRAINT outbox_throttle_pace_is_a_share CHECK (pace > 0 AND pace <= 1),
    CONSTRAINT outbox_throttle_paused_until_is_a_time CHECK (paused_until IS NULL OR
        (strftime('%Y-%m-%d %H:%M:%S', substr(paused_until, 1, 19), '+0 days') IS substr(paused_until, 1, 19))),
    CONSTRAINT outbox_throttle_session_limit_is_positive CHECK (session_limit > 0),
    CONSTRAINT outbox_throttle_recipient_limit_is_positive CHECK (recipient_limit > 0),
    CONSTRAINT outbox_throttle_pipelining_is_known CHECK (pipelining IN ('overlap', 'transaction', 'off'))
) STRICT;

-- What is known of each batch that moved, as of looked_at. The workers keep it; the truth is in outbox.
CREATE TABLE outbox_batch (
    batch            TEXT NOT NULL PRIMARY KEY,
    -- open: something waits, is being sent, held or in doubt. settling: nothing is open any more, nobody has been told. telling: it stands in the log, others are being told. done: told, or nobody is to be.
    state            TEXT NOT NULL DEFAULT 'open',
    messages         INTEGER NOT NULL DEFAULT 0,
    open             INTEGER NOT NULL DEFAULT 0,
    sent             INTEGER NOT NULL DEFAULT 0,
    not_sent         INTEGER NOT NULL DEFAULT 0,
    -- In doubt, or paused.
    held             INTEGER NOT NULL DEFAULT 0,
    first_attempt_at TEXT,
    last_finished_at TEXT,
    looked_at        TEXT NOT NULL,
    done_at          TEXT,
    -- A worker is about to tell, or to pause it, until then; it may be dead after that.
    taken_until      TEXT,
    -- Of [batches] failed: NULL not judged yet; passed; pausing: rows are being paused; paused: done and told.
    verdict          TEXT,
    -- Grows with each change: a change is made only to what was seen.
    version          INTEGER NOT NULL DEFAULT 1,
    CONSTRAINT outbox_batch_state_is_known CHECK (state IN ('open', 'settling', 'telling', 'done')),
    CONSTRAINT outbox_batch_verdict_is_known CHECK (verdict IN ('passed', 'pausing', 'paused'))
) STRICT;

CREATE INDEX outbox_batch_by_state ON outbox_batch (state, looked_at);

-- How much is waiting, going, finished?
CREATE VIEW outbox_now AS
SELECT n.status, n.messages, n.due, n.retrying, n.next_due_at, o.created_at AS oldest_created_at
FROM (SELECT status, sum(messages) AS messages, sum(due) AS due, sum(retrying) AS retrying,
             min(next_due_at) AS next_due_at, min(first_id) AS first_id
      FROM (SELECT 'queued' AS status, count(*) AS messages, sum(due_at <= at) AS due, sum(claim_seq > 0 AND due_at > at) AS retrying,
                   min(due_at) AS next_due_at, min(id) AS first_id
            FROM outbox, (SELECT strftime('%Y-%m-%d %H:%M:%f000', 'now') AS at) WHERE status = 'queued'
            UNION ALL
            SELECT status, count(*), 0, 0, NULL, min(id) FROM outbox WHERE finished_at IS NOT NULL GROUP BY status
            UNION ALL
            SELECT status, count(*), 0, 0, NULL, min(id) FROM outbox WHERE status IN ('in_doubt', 'paused') GROUP BY status
            UNION ALL
            SELECT status, count(*), 0, 0, NULL, min(id) FROM outbox
            WHERE claimed_by IS NOT NULL AND status IN ('sending', 'cancelled') AND finished_at IS NULL GROUP BY status) AS part
      GROUP BY status) AS n
LEFT JOIN outbox AS o ON o.id = n.first_id
WHERE n.messages > 0;

-- What does not move, and why? Of rows that wait behind each other, the first.
CREATE VIEW outbox_stuck AS
SELECT o.id, o.status, o.domain, o.batch, o.due_at, o.attempts, o.doubts, o.claimed_by, o.claimed_at, o.reply_code, o.error,
       CASE o.status WHEN 'in_doubt' THEN 'may have been delivered; decide with: poller resolve'
                     ELSE 'held by an operator; poller resume' END AS why
FROM outbox AS o
WHERE o.status IN ('in_doubt', 'paused')
UNION ALL
SELECT o.id, o.status, o.domain, o.batch, o.due_at, o.attempts, o.doubts, o.claimed_by, o.claimed_at, o.reply_code, o.error,
       'its worker is silent; taken over when its lease ends'
FROM outbox AS o
LEFT JOIN outbox_worker AS w ON w.name = o.claimed_by
WHERE o.claimed_by IS NOT NULL AND o.status = 'sending'
  AND (w.name IS NULL OR coalesce(w.silent_from, w.lease_until) < strftime('%Y-%m-%d %H:%M:%f000', 'now'))
UNION ALL
SELECT o.id, o.status, o.domain, o.batch, o.due_at, o.attempts, o.doubts, o.claimed_by, o.claimed_at, o.reply_code, o.error,
       'rows of this batch, template and sender due for more than 15 minutes: ' || still.messages || '; none was sent since then; poller explain ' || o.id
FROM (SELECT flow, count(*) AS messages, min(id) AS first_id FROM outbox
      WHERE status = 'queued' AND due_at < strftime('%Y-%m-%d %H:%M:%f000', 'now', '-15 minutes')
        AND flow NOT IN (SELECT flow FROM outbox WHERE status IN ('sent', 'partial') AND finished_at > strftime('%Y-%m-%d %H:%M:%f000', 'now', '-15 minutes'))
      GROUP BY flow) AS still
JOIN outbox AS o ON o.id = still.first_id;

-- Who did not get it today (UTC), and why?
CREATE VIEW outbox_failed_today AS
SELECT o.id, o.status, r.address, o.recipients, o.domain, o.batch, o.attempts,
       CASE WHEN r.address IS NULL THEN o.reply_code ELSE r.reply_code END AS reply_code,
       CASE WHEN r.address IS NULL THEN o.reply_status ELSE r.reply_status END AS reply_status,
       CASE WHEN r.address IS NULL THEN o.reply_text ELSE r.reply_text END AS reply_text,
       CASE WHEN r.address IS NULL THEN o.error ELSE r.error END AS error,
       o.finished_at
FROM outbox AS o
LEFT JOIN outbox_recipient AS r ON r.outbox_id = o.id AND r.status <> 'sent'
WHERE o.status IN ('failed', 'partial', 'expired', 'suppressed')
  AND o.finished_at >= date('now');

-- How far is each batch?
CREATE VIEW outbox_batch_progress AS
SELECT batch,
       sum(n) AS messages,
       sum(CASE WHEN status IN ('queued', 'sending') THEN n ELSE 0 END) AS open,
       sum(CASE WHEN status = 'sent' THEN n ELSE 0 END) AS sent,
       sum(CASE WHEN status IN ('failed', 'partial', 'expired', 'suppressed', 'cancelled') THEN n ELSE 0 END) AS not_sent,
       sum(CASE WHEN status IN ('in_doubt', 'paused') THEN n ELSE 0 END) AS held,
       round(100.0 * sum(CASE WHEN status NOT IN ('queued', 'sending', 'in_doubt', 'paused') THEN n ELSE 0 END) / sum(n), 1) AS percent_done,
       min(first_attempt_at) AS first_attempt_at,
       max(finished_at) AS last_finished_at
FROM (SELECT batch, status, count(*) AS n, min(first_attempt_at) AS first_attempt_at, max(finished_at) AS finished_at
      FROM outbox WHERE batch IS NOT NULL GROUP BY batch, status) AS part
GROUP BY batch;

-- Which destinations have mail open, or trouble? (sent, failed: within the last hour)
CREATE VIEW outbox_domains AS
SELECT domain, sum(queued) AS queued, sum(retrying) AS retrying, sum(sending) AS sending,
       sum(sent) AS sent, sum(failed) AS failed, sum(in_doubt) AS in_doubt
FROM (SELECT domain, count(*) AS queued, count(*) FILTER (WHERE claim_seq > 0 AND due_at > strftime('%Y-%m-%d %H:%M:%f000', 'now')) AS retrying,
             0 AS sending, 0 AS sent, 0 AS failed, 0 AS in_doubt
      FROM outbox WHERE status = 'queued' GROUP BY domain
      UNION ALL
      SELECT domain, 0, 0, count(*), 0, 0, 0 FROM outbox WHERE claimed_by IS NOT NULL AND status = 'sending' GROUP BY domain
      UNION ALL
      SELECT domain, 0, 0, 0, count(*) FILTER (WHERE status = 'sent'), count(*) FILTER (WHERE status <> 'sent'), 0
      FROM outbox WHERE status IN ('sent', 'failed', 'partial') AND finished_at > strftime('%Y-%m-%d %H:%M:%f000', 'now', '-1 hour') GROUP BY domain
      UNION ALL
      SELECT domain, 0, 0, 0, 0, 0, count(*) FROM outbox WHERE status = 'in_doubt' GROUP BY domain) AS part
GROUP BY domain;

-- What is paused or slowed now, until when, and why? (waiting: its queued rows, where it is a domain)
CREATE VIEW outbox_throttled AS
SELECT kind, name, paused_until, pace, reason, coalesce(limit_override, limits) AS limits,
       CASE WHEN kind = 'domain'
            THEN (SELECT count(*) FROM outbox AS o WHERE o.status = 'queued' AND o.domain = t.name) END AS waiting
FROM outbox_throttle AS t
WHERE paused_until > strftime('%Y-%m-%d %H:%M:%f000', 'now') OR pace < 1;

-- The tables as a reader may see them: no bodies, no variables, no contents, no secrets.
CREATE VIEW outbox_rows AS
SELECT id, status, priority, due_at, expires_at, recipients, cc, bcc, sender, reply_to, envelope_from, subject, template, locale,
       headers, list, message_id, batch, dedupe_key, on_doubt, max_attempts, relay, created_at, created_by, domain, lane, flow, attempts, doubts, setbacks,
       first_attempt_at, claim_seq, claimed_by, claimed_at, reply_code, reply_status, reply_text, queue_id, error, sent_at,
       finished_at, updated_at
FROM outbox;

CREATE VIEW outbox_files AS
SELECT id, outbox_id, name, content_type, content_id
FROM outbox_attachment;

CREATE VIEW outbox_recipients AS
SELECT outbox_id, address, status, attempts, doubts, reply_code, reply_status, reply_text, queue_id, error, sent_at, updated_at
FROM outbox_recipient;

CREATE VIEW outbox_attempts AS
SELECT id, outbox_id, claim_seq, at, worker, recipient, outcome, blame, phase, relay, reply_code, reply_status, reply_text,
       queue_id, error
FROM outbox_attempt;

CREATE VIEW outbox_suppressions AS
SELECT address, list, source, reason, created_at, created_by, expires_at
FROM outbox_suppression;

-- Whom has this application taken off its lists? It may INSERT here what it learns, and DELETE what it has written itself.
CREATE VIEW outbox_unsubscribed AS
SELECT address, list, source, reason, created_at, expires_at
FROM outbox_suppression
WHERE created_by = '' AND source IN ('unsubscribe', 'complaint', 'application') AND address NOT LIKE '@%';

CREATE TRIGGER outbox_unsubscribed_insert INSTEAD OF INSERT ON outbox_unsubscribed
BEGIN
    SELECT RAISE(ABORT, 'CHECK OPTION failed: outbox_unsubscribed')
    WHERE NEW.address LIKE '@%' OR coalesce(NEW.source, '') NOT IN ('unsubscribe', 'complaint', 'application');
    INSERT INTO outbox_suppression (address, list, source, reason, expires_at)
    VALUES (NEW.address, coalesce(NEW.list, ''), NEW.source, coalesce(NEW.reason, ''), NEW.expires_at);
END;

CREATE TRIGGER outbox_unsubscribed_delete INSTEAD OF DELETE ON outbox_unsubscribed
BEGIN
    DELETE FROM outbox_suppression
    WHERE address = OLD.address AND list = OLD.list AND source = OLD.source AND created_by = '';
END;


CREATE VIEW outbox_workers AS
SELECT name, identity, incarnation, host, pid, version, started_at, heartbeat_at, lease_until, silent_from, stopped_at,
       CASE WHEN stopped_at IS NOT NULL THEN 'stopped' WHEN coalesce(silent_from, lease_until) <= strftime('%Y-%m-%d %H:%M:%f000', 'now') THEN 'silent' ELSE 'alive' END AS state,
       trouble, journal_applied, connected_to
FROM outbox_worker;

CREATE VIEW outbox_throttles AS
SELECT kind, name, limits, limit_override, overridden_by, pace, paused_until, reason, session_limit, recipient_limit, pipelining,
       pipelining_reason, roused_at, slots,
       updated_at
FROM outbox_throttle;

CREATE VIEW outbox_batches AS
SELECT batch, state, messages, open, sent, not_sent, held, first_attempt_at, last_finished_at, looked_at, done_at, taken_until, verdict, version
FROM outbox_batch;

-- What may an application see of its rows? No bodies, no addresses.
CREATE VIEW outbox_state AS
SELECT id, status, domain, batch, dedupe_key, priority, due_at, attempts, doubts, reply_code, reply_status, error,
       created_at,
       -- A cancelled row of which some recipients have it: when the last of them was accepted.
       CASE status WHEN 'cancelled' THEN (SELECT max(r.sent_at) FROM outbox_recipient AS r WHERE r.outbox_id = outbox.id)
            ELSE sent_at END AS sent_at,
       finished_at
FROM outbox;

-- Applied. `poller migrate` puts the checksum of this file in the place of 'by hand'.
INSERT INTO outbox_meta (name, value) VALUES ('migration 0001_outbox', 'by hand');
