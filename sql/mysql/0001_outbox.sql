-- What does an outbox on MariaDB (10.6 or newer) consist of?  MySQL 8.0.17 or newer takes the same statements, untested.
--
-- Apply with `poller migrate`, or by hand:  mariadb DATABASE < 0001_outbox.sql
-- Applied by hand it enters itself in outbox_meta, and `poller migrate` takes that for done.
-- Text is compared byte by byte, trailing blanks included: the conditional comments name each server's collation for
-- that. Times are UTC. Each statement ends with a semicolon at the end of a line, and may be repeated.

CREATE TABLE IF NOT EXISTS outbox_meta (
    name       VARCHAR(191) NOT NULL PRIMARY KEY
        COMMENT '"migration NNNN_name" (value: SHA-256 of the file, or "by hand"), "message_id_key" (made by migrate, or at the first start), "paused" (value: why; present while the whole outbox is off).',
    value      LONGTEXT     NOT NULL,
    updated_at DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */
  COMMENT 'Facts about the outbox as a whole: applied migrations, the secret behind Message-IDs, the main switch.';

CREATE TABLE IF NOT EXISTS outbox (
    id               BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    status           VARCHAR(10)  NOT NULL DEFAULT 'queued' COMMENT
'queued: waits for due_at -> sending | failed | expired | suppressed; by an operator: paused | cancelled
sending: claimed, may be on the wire -> sent | partial | failed | expired | queued | in_doubt; by an operator: paused | cancelled
sent: every recipient accepted by the relay. partial: some accepted, the others refused, expired or given up
failed: refused for good, unsendable, out of attempts or time
in_doubt: may have been delivered; a person decides (poller resolve)
paused: held by an operator -> queued | cancelled. cancelled: by an operator
expired: too late. suppressed: every recipient stands in outbox_suppression',
    priority         SMALLINT     NOT NULL DEFAULT 5 COMMENT '0 first ... 9 last',
    due_at           DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)) COMMENT 'UTC. Not before. The poller moves it only for this row''s own retries.',
    expires_at       DATETIME(6)  NULL COMMENT 'UTC. Not after: judged at the claim and again just before the wire.',
    recipients       LONGTEXT     NULL COMMENT 'To: comma-separated addresses, RFC 5322. One of recipients, cc, bcc is enough.',
    cc               LONGTEXT     NULL,
    bcc              LONGTEXT     NULL COMMENT 'Receives the message and is never named in it.',
    sender           TEXT         NULL,
    reply_to         TEXT         NULL,
    envelope_from    TEXT         NULL COMMENT 'Bounce address; NULL: the sender''s, empty: the null reverse-path <>.',
    subject          TEXT         NULL,
    body_text        LONGTEXT     NULL,
    body_html        LONGTEXT     NULL,
    template         VARCHAR(255) NULL COMMENT 'Name of a template, instead of body_text and body_html; context holds its variables, locale the language to prefer.',
    context          JSON         NULL,
    locale           VARCHAR(64)  NULL,
    headers          JSON         NULL COMMENT 'Extra header fields: {"Name": "value"} or {"Name": ["value", ...]}.',
    raw              LONGBLOB     NULL COMMENT 'A complete message (RFC 5322), instead of subject, bodies and template: it goes out as it is, to recipients, cc and bcc; what it lacks of Date, Message-ID and From is added.',
    dsn              JSON         NULL COMMENT 'Of a raw message: the DSN parameters it was submitted with (RFC 3461), for a relay that takes them: {"mail": "RET=HDRS ENVID=x", "rcpt": {"a@example.com": "NOTIFY=NEVER"}}.',
    list             VARCHAR(64)  NULL COMMENT 'The mailing list that the row is for, a name of [lists."name"]; it brings the header fields for unsubscribing. NULL: none.',
    message_id       VARCHAR(255) NULL COMMENT 'Fixed at the first claim, the same for every attempt.',
    batch            VARCHAR(191) NULL COMMENT 'A label that groups rows: a campaign, a nightly run.',
    dedupe_key       VARCHAR(255) NULL COMMENT 'Unique while the row exists, compared byte by byte.',
    on_doubt         VARCHAR(6)   NULL COMMENT 'When the last reply was lost: resend or hold; NULL: as configured.',
    max_attempts     INT          NULL,
    relay            VARCHAR(64)  NULL,
    created_at       DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    created_by       VARCHAR(128) NOT NULL DEFAULT (LEFT(USER(), CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1))
        COMMENT 'The database user who wrote the row: with roles.sql an application sees its own rows and adds files to no other''s.',
    domain           VARCHAR(255) GENERATED ALWAYS AS (
        IF(LOCATE('@', COALESCE(NULLIF(TRIM(recipients), ''), NULLIF(TRIM(cc), ''), bcc)) = 0, NULL,
           LEFT(LOWER(TRIM(SUBSTRING_INDEX(SUBSTRING_INDEX(SUBSTRING_INDEX(SUBSTRING_INDEX(SUBSTRING_INDEX(
               COALESCE(NULLIF(TRIM(recipients), ''), NULLIF(TRIM(cc), ''), bcc), '@', -1), '(', 1), ';', 1), ',', 1), '>', 1))), 255))
    ) STORED COMMENT 'Domain of the last address of the first list that has one.',
    address          VARCHAR(320) GENERATED ALWAYS AS (
        LEFT(LOWER(TRIM(SUBSTRING_INDEX(SUBSTRING(COALESCE(NULLIF(recipients, ''), NULLIF(cc, ''), bcc),
            LOCATE('<', COALESCE(NULLIF(recipients, ''), NULLIF(cc, ''), bcc)) + 1), '>', 1))), 320)
    ) STORED COMMENT 'Of a row with one address, that one, in lower case: poller find. Of several each stands in outbox_recipient, from the first attempt on.',
    lane             VARCHAR(400) GENERATED ALWAYS AS (
        LEFT(CONCAT(COALESCE(relay, ''), ' ', LOWER(TRIM(SUBSTRING_INDEX(
            SUBSTRING(COALESCE(sender, ''), LOCATE('<', COALESCE(sender, '')) + 1), '>', 1)))), 400)
    ) STORED COMMENT 'The relay that the row names and the address of its sender: the limits that it falls under beside its destination''s.',
    flow             VARCHAR(252) GENERATED ALWAYS AS (
        CONCAT(LEFT(COALESCE(batch, ''), 100), ' ', LEFT(COALESCE(template, ''), 60), ' ', LEFT(COALESCE(sender, ''), 90))
    ) STORED COMMENT 'Batch, template and sender: what takes turns within one priority, so that nobody''s million delays another''s one.',
    attempts         INT          NOT NULL DEFAULT 0 COMMENT 'Attempts that were this message''s own; trouble of the session or the relay costs none.',
    doubts           INT          NOT NULL DEFAULT 0 COMMENT 'How often the final reply was lost.',
    setbacks         INT          NOT NULL DEFAULT 0 COMMENT 'How often trouble of the session or the relay interrupted this very row, at no cost to it.',
    first_attempt_at DATETIME(6)  NULL COMMENT 'The Date header and the age that gives up count from here.',
    claim_seq        BIGINT       NOT NULL DEFAULT 0 COMMENT 'With id and message_id the fence: only the claim that sent a message may write its outcome.',
    claimed_by       VARCHAR(191) NULL COMMENT 'outbox_worker.name of the worker that holds the row, or held it when it ended.',
    claimed_at       DATETIME(6)  NULL,
    reply_code       SMALLINT     NULL COMMENT 'Last SMTP reply: 250, 450, 550 ...; reply_status its enhanced code, reply_text its words.',
    reply_status     VARCHAR(16)  NULL,
    reply_text       TEXT         NULL,
    queue_id         VARCHAR(191) NULL COMMENT 'The relay''s own queue id: search its log for it.',
    error            TEXT         NULL COMMENT 'Why it is not simply sent, in words.',
    sent_at          DATETIME(6)  NULL,
    finished_at      DATETIME(6)  NULL,
    updated_at       DATETIME(6)  NULL,

    CONSTRAINT outbox_dedupe_key_is_unique UNIQUE (dedupe_key),
    CONSTRAINT outbox_status_is_known CHECK (status IN
        ('queued', 'sending', 'sent', 'partial', 'failed', 'in_doubt', 'paused', 'cancelled', 'expired', 'suppressed')),
    CONSTRAINT outbox_priority_is_0_to_9 CHECK (priority BETWEEN 0 AND 9),
    CONSTRAINT outbox_has_a_recipient CHECK
        (TRIM(CONCAT(COALESCE(recipients, ''), COALESCE(cc, ''), COALESCE(bcc, ''))) <> ''),
    CONSTRAINT outbox_has_a_body_or_template CHECK
        (body_text IS NOT NULL OR body_html IS NOT NULL OR template IS NOT NULL OR raw IS NOT NULL
         OR status IN ('sent', 'partial', 'failed', 'cancelled', 'expired', 'suppressed')),
    CONSTRAINT outbox_body_or_template_not_both CHECK
        (template IS NULL OR (body_text IS NULL AND body_html IS NULL)),
    CONSTRAINT outbox_raw_is_the_whole_message CHECK
        (raw IS NULL OR (body_text IS NULL AND body_html IS NULL AND template IS NULL AND headers IS NULL AND reply_to IS NULL)),
    CONSTRAINT outbox_dsn_is_an_object_beside_raw CHECK (dsn IS NULL OR (raw IS NOT NULL AND JSON_TYPE(dsn) = 'OBJECT')),
    CONSTRAINT outbox_message_id_is_ascii CHECK (LENGTH(message_id) = CHAR_LENGTH(message_id)),
    CONSTRAINT outbox_context_is_an_object CHECK (JSON_TYPE(context) = 'OBJECT'),
    CONSTRAINT outbox_headers_is_an_object CHECK (JSON_TYPE(headers) = 'OBJECT'),
    CONSTRAINT outbox_dedupe_key_is_not_empty CHECK (dedupe_key <> ''),
    CONSTRAINT outbox_on_doubt_is_known CHECK (on_doubt IN ('resend', 'hold')),
    CONSTRAINT outbox_max_attempts_is_positive CHECK (max_attempts > 0),
    CONSTRAINT outbox_counts_are_not_negative CHECK (attempts >= 0 AND doubts >= 0 AND setbacks >= 0 AND claim_seq >= 0),
    -- 0000-00-00 and 2026-11-00 are no times, whatever the client's sql_mode.
    CONSTRAINT outbox_due_at_is_a_time CHECK (due_at >= '1000-01-01' AND MONTH(due_at) > 0 AND DAYOFMONTH(due_at) > 0),
    CONSTRAINT outbox_expires_at_is_a_time CHECK (expires_at >= '1000-01-01' AND MONTH(expires_at) > 0 AND DAYOFMONTH(expires_at) > 0),
    CONSTRAINT outbox_created_at_is_a_time CHECK (created_at >= '1000-01-01' AND MONTH(created_at) > 0 AND DAYOFMONTH(created_at) > 0),
    CONSTRAINT outbox_sending_has_a_claim CHECK
        (status <> 'sending' OR (claimed_by IS NOT NULL AND claimed_at IS NOT NULL AND message_id IS NOT NULL AND claim_seq > 0)),
    CONSTRAINT outbox_sent_has_a_time CHECK (status NOT IN ('sent', 'partial') OR sent_at IS NOT NULL),
    CONSTRAINT outbox_queued_is_unclaimed_and_unsent CHECK
        (status <> 'queued' OR (claimed_by IS NULL AND claimed_at IS NULL AND sent_at IS NULL)),
    -- What was sent can't be held or cancelled any more, and what is open has not ended.
    CONSTRAINT outbox_held_is_unsent CHECK (status NOT IN ('sending', 'paused', 'cancelled') OR sent_at IS NULL),
    CONSTRAINT outbox_open_is_unfinished CHECK (status NOT IN ('queued', 'sending', 'paused', 'in_doubt') OR finished_at IS NULL),

    INDEX outbox_due (status, priority, due_at, id, claim_seq),
    INDEX outbox_due_by_domain (status, domain, priority, due_at, id, claim_seq),
    INDEX outbox_due_by_lane (status, lane, priority, due_at, id),
    INDEX outbox_due_by_flow (status, flow, priority, due_at, id),
    INDEX outbox_held (status, claimed_by),
    INDEX outbox_by_batch (batch, status, first_attempt_at, finished_at),
    INDEX outbox_by_finish (status, finished_at, domain),
    INDEX outbox_by_address (address, id),
    INDEX outbox_by_message_id (message_id),
    INDEX outbox_by_queue_id (queue_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */
  COMMENT 'One row, one message. Applications INSERT; poller claims, sends and writes down what became of it.';

CREATE TABLE IF NOT EXISTS outbox_recipient (
    outbox_id    BIGINT       NOT NULL,
    address      VARCHAR(512) NOT NULL,
    status       VARCHAR(10)  NOT NULL,
    attempts     INT          NOT NULL DEFAULT 0,
    doubts       INT          NOT NULL DEFAULT 0,
    reply_code   SMALLINT     NULL,
    reply_status VARCHAR(16)  NULL,
    reply_text   TEXT         NULL,
    queue_id     VARCHAR(191) NULL,
    error        TEXT         NULL,
    sent_at      DATETIME(6)  NULL,
    updated_at   DATETIME(6)  NOT NULL,
    PRIMARY KEY (outbox_id, address),
    INDEX outbox_recipient_by_address (address),
    CONSTRAINT outbox_recipient_of_row FOREIGN KEY (outbox_id) REFERENCES outbox (id) ON DELETE CASCADE,
    CONSTRAINT outbox_recipient_status_is_known CHECK (status IN
        ('queued', 'sent', 'failed', 'in_doubt', 'expired', 'suppressed')),
    CONSTRAINT outbox_recipient_sent_has_a_time CHECK (status <> 'sent' OR sent_at IS NOT NULL)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */
  COMMENT 'Rows with several recipients: the state of each. An accepted one is never sent to again.';

CREATE TABLE IF NOT EXISTS outbox_blob (
    sha256     CHAR(64)    NOT NULL PRIMARY KEY COMMENT 'Of the content, in hexadecimal: what outbox_attachment.blob_sha256 names it by.',
    content    LONGBLOB    NOT NULL,
    created_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    CONSTRAINT outbox_blob_has_its_hash CHECK (sha256 = SHA2(content, 256))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */
  COMMENT 'Files that several messages carry, once each. Retention deletes what no row names any more, a day after it came.';

CREATE TABLE IF NOT EXISTS outbox_attachment (
    id           BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    outbox_id    BIGINT       NOT NULL,
    name         TEXT         NOT NULL,
    content_type VARCHAR(255) NOT NULL DEFAULT 'application/octet-stream',
    content      LONGBLOB     NULL COMMENT 'The bytes; or blob_sha256 names a shared file, or path one below [attachments] directory.',
    content_id   VARCHAR(255) NULL COMMENT 'For an inline image: the HTML names it as <img src="cid:...">.',
    blob_sha256  CHAR(64)     NULL,
    path         TEXT         NULL,
    part         VARCHAR(16)  NOT NULL DEFAULT 'file' COMMENT 'file, or alternative: another form of the text, as text/calendar; method=REQUEST for an invitation.',
    CONSTRAINT outbox_attachment_has_one_source CHECK ((content IS NOT NULL) + (blob_sha256 IS NOT NULL) + (path IS NOT NULL) = 1),
    CONSTRAINT outbox_attachment_part_is_known CHECK (part IN ('file', 'alternative')),
    CONSTRAINT outbox_attachment_content_id_is_not_empty CHECK (content_id <> ''),
    CONSTRAINT outbox_attachment_of_row FOREIGN KEY (outbox_id) REFERENCES outbox (id) ON DELETE CASCADE,
    CONSTRAINT outbox_attachment_of_blob FOREIGN KEY (blob_sha256) REFERENCES outbox_blob (sha256),
    INDEX outbox_attachment_by_row (outbox_id, id),
    INDEX outbox_attachment_by_blob (blob_sha256)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */
  COMMENT 'Files that travel with a message, in order of id. Insert them in the same transaction as the row.';

CREATE TABLE IF NOT EXISTS outbox_content (
    outbox_id  BIGINT      NOT NULL PRIMARY KEY,
    rendered   LONGBLOB    NULL COMMENT 'What its template gave when it was first tried, zlib of JSON: subject, text, html. Only while the row may be tried again.',
    made_of    CHAR(64)    NULL COMMENT 'Hash of template, context, locale and subject as they were: where one is corrected, the row is rendered anew.',
    sha256     CHAR(64)    NULL COMMENT 'Of the bytes that the relay accepted last; in hexadecimal.',
    message    LONGBLOB    NULL COMMENT 'Those bytes, zlib.',
    kept_at    DATETIME(6) NOT NULL,
    CONSTRAINT outbox_content_rendered_says_of_what CHECK ((rendered IS NULL) = (made_of IS NULL)),
    CONSTRAINT outbox_content_message_has_its_hash CHECK (message IS NULL OR sha256 IS NOT NULL),
    CONSTRAINT outbox_content_of_row FOREIGN KEY (outbox_id) REFERENCES outbox (id) ON DELETE CASCADE,
    INDEX outbox_content_by_time (kept_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */
  COMMENT 'What a row was made into, where that is kept: for another try of the same, or as [message] keep_sent says.';

CREATE TABLE IF NOT EXISTS outbox_attempt (
    id           BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    outbox_id    BIGINT       NOT NULL,
    claim_seq    BIGINT       NOT NULL,
    at           DATETIME(6)  NOT NULL,
    worker       VARCHAR(191) NOT NULL,
    recipient    VARCHAR(512) NULL COMMENT 'NULL: the whole message.',
    outcome      VARCHAR(32)  NOT NULL COMMENT 'deferred, failed, in_doubt, died (composing it killed the worker), handed_back, accepted (after earlier trouble), accepted_twice, bounced, complained or delayed (what came back later), or an operator''s word.',
    blame        VARCHAR(16)  NULL COMMENT 'session: the connection or the relay; destination: it takes less than we have; message; recipient; worker: a crash.',
    phase        VARCHAR(16)  NULL,
    relay        VARCHAR(300) NULL COMMENT 'host:port it was with.',
    reply_code   SMALLINT     NULL,
    reply_status VARCHAR(16)  NULL,
    reply_text   TEXT         NULL,
    queue_id     VARCHAR(191) NULL,
    error        TEXT         NULL,
    INDEX outbox_attempt_by_row (outbox_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */
  COMMENT 'History of what did not simply succeed; append-only. Deleting a row of outbox leaves its history.';

CREATE TABLE IF NOT EXISTS outbox_suppression (
    address    VARCHAR(512) NOT NULL,
    list       VARCHAR(64)  NOT NULL DEFAULT '' COMMENT 'Only mail of this list (outbox.list). Empty: all mail.',
    source     VARCHAR(16)  NOT NULL DEFAULT 'operator'
        COMMENT 'Who says so: operator, bounce, complaint, unsubscribe (the recipient) or application.',
    reason     VARCHAR(1000) NOT NULL DEFAULT '',
    created_at DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    created_by VARCHAR(128) NOT NULL DEFAULT (LEFT(USER(), CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1))
        COMMENT 'The database user who wrote the line.',
    expires_at DATETIME(6)  NULL COMMENT 'UTC. From then on it holds no longer. NULL: until it is deleted.',
    PRIMARY KEY (address, list, source, created_by),
    INDEX outbox_suppression_by_end (expires_at),
    CONSTRAINT outbox_suppression_source_is_known CHECK
        (source IN ('operator', 'bounce', 'complaint', 'unsubscribe', 'application')),
    -- Anyone who has unsubscribed is written to again when they subscribe again, not when a time is over.
    CONSTRAINT outbox_suppression_unsubscribe_has_no_end CHECK (source <> 'unsubscribe' OR expires_at IS NULL),
    CONSTRAINT outbox_suppression_expires_at_is_a_time CHECK (expires_at BETWEEN '1000-01-01' AND '9999-12-30'),
    CONSTRAINT outbox_suppression_address_is_lower_case CHECK (address = LOWER(address)),
    CONSTRAINT outbox_suppression_has_an_at_sign CHECK (address LIKE '%@%')
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */
  COMMENT 'Who is not sent to: lower-case addresses, or @domain for all of it. Each line counts by itself.';

CREATE TABLE IF NOT EXISTS outbox_worker (
    name         VARCHAR(191) NOT NULL PRIMARY KEY,
    identity     VARCHAR(64)  NOT NULL COMMENT 'Of its state directory: the same name from another directory is another worker.',
    incarnation  INT          NOT NULL COMMENT 'Grows at each start.',
    host         VARCHAR(255) NOT NULL,
    pid          INT          NOT NULL,
    version      VARCHAR(64)  NOT NULL,
    started_at   DATETIME(6)  NOT NULL,
    heartbeat_at DATETIME(6)  NOT NULL,
    lease_until  DATETIME(6)  NOT NULL COMMENT 'After this another worker judges the rows that this one holds.',
    silent_from  DATETIME(6)  NULL
        COMMENT 'Alive until then, unless the next heartbeat comes: three of them missed is silent.',
    stopped_at   DATETIME(6)  NULL,
    trouble      TEXT         NULL COMMENT 'What keeps mail from going out, as of the heartbeat; NULL: nothing.',
    journal_applied BIGINT    NOT NULL DEFAULT 0 COMMENT 'What the worker''s own journal says up to this position is written down here; what it says beyond is applied again.',
    connected_to VARCHAR(4000) NULL COMMENT 'The relays that it holds a connection to, of those that limit how many there may be; with spaces between.'
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */
  COMMENT 'Who works here.';

CREATE TABLE IF NOT EXISTS outbox_throttle (
    kind          VARCHAR(16)   NOT NULL COMMENT 'outbox (name: empty), relay, sender, provider (a group of domains), domain.',
    name          VARCHAR(512)  NOT NULL,
    limits        VARCHAR(1000) NULL COMMENT 'What the configuration allows; changed there, not here. NULL: nothing is limited, it was only asked to slow down.',
    limit_override VARCHAR(1000) NULL COMMENT 'What a person allows instead (poller limit), live, up or down; NULL: what the configuration allows. In the same words, or "none".',
    overridden_by VARCHAR(255)  NULL COMMENT 'Who and when.',
    pace          DOUBLE        NOT NULL DEFAULT 1 COMMENT '1: at full pace. Less: this share of it, after a reply that asked to slow down; raised again step by step.',
    paused_until  DATETIME(6)   NULL COMMENT 'UTC. Nothing goes before. NULL or past: not paused.',
    reason        TEXT          NULL COMMENT 'Why it is paused or slow.',
    session_limit INT           NULL COMMENT 'How many messages this relay takes on one connection, as learnt from its replies.',
    recipient_limit INT         NULL COMMENT 'How many recipients this relay takes in one transaction, as learnt from its replies.',
    pipelining    VARCHAR(16)   NULL COMMENT 'The most that this relay bears of sending ahead ([smtp] pipelining), as learnt. It stays until a person sets it to NULL.',
    pipelining_reason VARCHAR(1000) NULL COMMENT 'What showed it.',
    roused_at     DATETIME(6)   NULL COMMENT 'A person has ended its rest (poller retry --relay NAME --now): a worker that sees another time than before rests no more.',
    slots         TEXT          NULL COMMENT 'What was taken of the limits. JSON, kept by the workers; NULL forgets it.',
    updated_at    DATETIME(6)   NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    PRIMARY KEY (kind, name),
    CONSTRAINT outbox_throttle_kind_is_known CHECK (kind IN ('outbox', 'relay', 'sender', 'provider', 'domain')),
    CONSTRAINT outbox_throttle_pace_is_a_share CHECK (pace > 0 AND pace <= 1),
    CONSTRAINT outbox_throttle_paused_until_is_a_time CHECK (paused_until BETWEEN '1000-01-01' AND '9999-12-30'),
    CONSTRAINT outbox_throttle_session_limit_is_positive CHECK (session_limit > 0),
    CONSTRAINT outbox_throttle_recipient_limit_is_positive CHECK (recipient_limit > 0),
    CONSTRAINT outbox_throttle_pipelining_is_known CHECK (pipelining IN ('overlap', 'transaction', 'off'))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */
  COMMENT 'What is paced, paused or slowed, for all workers. A plain UPDATE of pace or paused_until takes effect within seconds; deleting a row forgets what was taken and heard.';

CREATE TABLE IF NOT EXISTS outbox_batch (
    batch            VARCHAR(191) NOT NULL PRIMARY KEY,
    state            VARCHAR(16) NOT NULL DEFAULT 'open' COMMENT 'open: something waits, is being sent, held or in doubt. settling: nothing is open any more, nobody has been told. telling: it stands in the log, others are being told. done: told, or nobody is to be.',
    messages         BIGINT NOT NULL DEFAULT 0,
    open             BIGINT NOT NULL DEFAULT 0,
    sent             BIGINT NOT NULL DEFAULT 0,
    not_sent         BIGINT NOT NULL DEFAULT 0,
    held             BIGINT NOT NULL DEFAULT 0 COMMENT 'In doubt, or paused.',
    first_attempt_at DATETIME(6),
    last_finished_at DATETIME(6),
    looked_at        DATETIME(6) NOT NULL,
    done_at          DATETIME(6),
    taken_until      DATETIME(6) COMMENT 'A worker is about to tell, or to pause it, until then; it may be dead after that.',
    verdict          VARCHAR(16) COMMENT 'Of [batches] failed: NULL not judged yet; passed; pausing: rows are being paused; paused: done and told.',
    version          BIGINT NOT NULL DEFAULT 1 COMMENT 'Grows with each change: a change is made only to what was seen.',
    CONSTRAINT outbox_batch_state_is_known CHECK (state IN ('open', 'settling', 'telling', 'done')),
    CONSTRAINT outbox_batch_verdict_is_known CHECK (verdict IN ('passed', 'pausing', 'paused')),
    INDEX outbox_batch_by_state (state, looked_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE /*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */
  COMMENT 'What is known of each batch that moved, as of looked_at. The workers keep it; the truth is in outbox.';

-- How much is waiting, going, finished?
CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_now AS
SELECT n.status, n.messages, n.due, n.retrying, n.next_due_at, o.created_at AS oldest_created_at
FROM (SELECT status,
             COUNT(*)                                                                                    AS messages,
             CAST(SUM(status = 'queued' AND due_at <= UTC_TIMESTAMP(6)) AS SIGNED)                     AS due,
             CAST(SUM(status = 'queued' AND claim_seq > 0 AND due_at > UTC_TIMESTAMP(6)) AS SIGNED)    AS retrying,
             MIN(CASE WHEN status = 'queued' THEN due_at END)                                            AS next_due_at,
             MIN(id)                                                                                     AS first_id
      FROM outbox
      GROUP BY status) AS n
LEFT JOIN outbox AS o ON o.id = n.first_id;

-- What does not move, and why? Of rows that wait behind each other, the first.
CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_stuck AS
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
  AND (w.name IS NULL OR coalesce(w.silent_from, w.lease_until) < UTC_TIMESTAMP(6))
UNION ALL
SELECT o.id, o.status, o.domain, o.batch, o.due_at, o.attempts, o.doubts, o.claimed_by, o.claimed_at, o.reply_code, o.error,
       CONCAT('rows of this batch, template and sender due for more than 15 minutes: ', still.messages, '; none was sent since then; poller explain ', o.id)
FROM (SELECT flow, count(*) AS messages, min(id) AS first_id FROM outbox
      WHERE status = 'queued' AND due_at < UTC_TIMESTAMP(6) - INTERVAL 15 MINUTE
        AND flow NOT IN (SELECT flow FROM outbox WHERE status IN ('sent', 'partial') AND finished_at > UTC_TIMESTAMP(6) - INTERVAL 15 MINUTE)
      GROUP BY flow) AS still
JOIN outbox AS o ON o.id = still.first_id;

-- Who did not get it today (UTC), and why?
CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_failed_today AS
SELECT o.id, o.status, r.address, o.recipients, o.domain, o.batch, o.attempts,
       CASE WHEN r.address IS NULL THEN o.reply_code ELSE r.reply_code END AS reply_code,
       CASE WHEN r.address IS NULL THEN o.reply_status ELSE r.reply_status END AS reply_status,
       CASE WHEN r.address IS NULL THEN o.reply_text ELSE r.reply_text END AS reply_text,
       CASE WHEN r.address IS NULL THEN o.error ELSE r.error END AS error,
       o.finished_at
FROM outbox AS o
LEFT JOIN outbox_recipient AS r ON r.outbox_id = o.id AND r.status <> 'sent'
WHERE o.status IN ('failed', 'partial', 'expired', 'suppressed')
  AND o.finished_at >= UTC_DATE();

-- How far is each batch?
CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_batch_progress AS
SELECT batch,
       CAST(SUM(n) AS SIGNED) AS messages,
       CAST(SUM(CASE WHEN status IN ('queued', 'sending') THEN n ELSE 0 END) AS SIGNED) AS open,
       CAST(SUM(CASE WHEN status = 'sent' THEN n ELSE 0 END) AS SIGNED) AS sent,
       CAST(SUM(CASE WHEN status IN ('failed', 'partial', 'expired', 'suppressed', 'cancelled') THEN n ELSE 0 END) AS SIGNED) AS not_sent,
       CAST(SUM(CASE WHEN status IN ('in_doubt', 'paused') THEN n ELSE 0 END) AS SIGNED) AS held,
       round(100.0 * sum(CASE WHEN status NOT IN ('queued', 'sending', 'in_doubt', 'paused') THEN n ELSE 0 END) / sum(n), 1) AS percent_done,
       min(first_attempt_at) AS first_attempt_at,
       max(finished_at) AS last_finished_at
FROM (SELECT batch, status, count(*) AS n, min(first_attempt_at) AS first_attempt_at, max(finished_at) AS finished_at
      FROM outbox WHERE batch IS NOT NULL GROUP BY batch, status) AS part
GROUP BY batch;

-- Which destinations have mail open, or trouble? (sent, failed: within the last hour)
CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_domains AS
SELECT domain, CAST(SUM(queued) AS SIGNED) AS queued, CAST(SUM(retrying) AS SIGNED) AS retrying, CAST(SUM(sending) AS SIGNED) AS sending,
       CAST(SUM(sent) AS SIGNED) AS sent, CAST(SUM(failed) AS SIGNED) AS failed, CAST(SUM(in_doubt) AS SIGNED) AS in_doubt
FROM (SELECT domain, count(*) AS queued, CAST(SUM(claim_seq > 0 AND due_at > UTC_TIMESTAMP(6)) AS SIGNED) AS retrying,
             0 AS sending, 0 AS sent, 0 AS failed, 0 AS in_doubt
      FROM outbox WHERE status = 'queued' GROUP BY domain
      UNION ALL
      SELECT domain, 0, 0, count(*), 0, 0, 0 FROM outbox WHERE claimed_by IS NOT NULL AND status = 'sending' GROUP BY domain
      UNION ALL
      SELECT domain, 0, 0, 0, CAST(SUM(status = 'sent') AS SIGNED), CAST(SUM(status <> 'sent') AS SIGNED), 0
      FROM outbox WHERE status IN ('sent', 'failed', 'partial') AND finished_at > UTC_TIMESTAMP(6) - INTERVAL 1 HOUR GROUP BY domain
      UNION ALL
      SELECT domain, 0, 0, 0, 0, 0, count(*) FROM outbox WHERE status = 'in_doubt' GROUP BY domain) AS part
GROUP BY domain;

-- What is paused or slowed now, until when, and why? (waiting: its queued rows, where it is a domain)
CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_throttled AS
SELECT kind, name, paused_until, pace, reason, coalesce(limit_override, limits) AS limits,
       CASE WHEN kind = 'domain'
            THEN (SELECT count(*) FROM outbox AS o WHERE o.status = 'queued' AND o.domain = t.name) END AS waiting
FROM outbox_throttle AS t
WHERE paused_until > UTC_TIMESTAMP(6) OR pace < 1;

-- The tables as a reader may see them: no bodies, no variables, no contents, no secrets. As temporary tables, so that nobody who may
-- only read can lock a row that the poller needs: HANDLER and FOR UPDATE ask for no more than SELECT on a table.
CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_rows AS
SELECT id, status, priority, due_at, expires_at, recipients, cc, bcc, sender, reply_to, envelope_from, subject, template, locale,
       headers, list, message_id, batch, dedupe_key, on_doubt, max_attempts, relay, created_at, created_by, domain, lane, flow, attempts, doubts, setbacks,
       first_attempt_at, claim_seq, claimed_by, claimed_at, reply_code, reply_status, reply_text, queue_id, error, sent_at,
       finished_at, updated_at
FROM outbox;

CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_files AS
SELECT id, outbox_id, name, content_type, content_id
FROM outbox_attachment;

CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_recipients AS
SELECT outbox_id, address, status, attempts, doubts, reply_code, reply_status, reply_text, queue_id, error, sent_at, updated_at
FROM outbox_recipient;

CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_attempts AS
SELECT id, outbox_id, claim_seq, at, worker, recipient, outcome, blame, phase, relay, reply_code, reply_status, reply_text,
       queue_id, error
FROM outbox_attempt;

CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_suppressions AS
SELECT address, list, source, reason, created_at, created_by, expires_at
FROM outbox_suppression;

-- Whom has this application taken off its lists? It may INSERT here what it learns, and DELETE what it has written itself.
CREATE OR REPLACE ALGORITHM = MERGE VIEW outbox_unsubscribed AS
SELECT address, list, source, reason, created_at, expires_at
FROM outbox_suppression
WHERE created_by = LEFT(USER(), CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1)
  AND source IN ('unsubscribe', 'complaint', 'application') AND address NOT LIKE '@%'
WITH CHECK OPTION;

CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_workers AS
SELECT name, identity, incarnation, host, pid, version, started_at, heartbeat_at, lease_until, silent_from, stopped_at,
       CASE WHEN stopped_at IS NOT NULL THEN 'stopped' WHEN coalesce(silent_from, lease_until) <= UTC_TIMESTAMP(6) THEN 'silent' ELSE 'alive' END AS state,
       trouble, journal_applied, connected_to
FROM outbox_worker;

CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_throttles AS
SELECT kind, name, limits, limit_override, overridden_by, pace, paused_until, reason, session_limit, recipient_limit, pipelining,
       pipelining_reason, roused_at, slots,
       updated_at
FROM outbox_throttle;

CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_batches AS
SELECT batch, state, messages, open, sent, not_sent, held, first_attempt_at, last_finished_at, looked_at, done_at, taken_until, verdict, version
FROM outbox_batch;

-- What may an application see of its rows? No bodies, no addresses, nobody else's. The one who made this view sees all rows.
CREATE OR REPLACE ALGORITHM = TEMPTABLE VIEW outbox_state AS
SELECT id, status, domain, batch, dedupe_key, priority, due_at, attempts, doubts, reply_code, reply_status,
       REGEXP_REPLACE(error, '[^[:space:]<>(),;"]+@[^[:space:]<>(),;"]+', '<address>') AS error,
       created_at,
       -- A cancelled row of which some recipients have it: when the last of them was accepted.
       CASE status WHEN 'cancelled' THEN (SELECT max(r.sent_at) FROM outbox_recipient AS r WHERE r.outbox_id = outbox.id)
            ELSE sent_at END AS sent_at,
       finished_at
FROM outbox
WHERE created_by = LEFT(USER(), CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1)
   OR SUBSTRING_INDEX(CURRENT_USER(), '@', 1) = LEFT(USER(), CHAR_LENGTH(USER()) - CHAR_LENGTH(SUBSTRING_INDEX(USER(), '@', -1)) - 1);

-- Applied. `poller migrate` puts the checksum of this file in the place of 'by hand'.
INSERT IGNORE INTO outbox_meta (name, value) VALUES ('migration 0001_outbox', 'by hand');
