-- The store of the engine, version 1. Times are seconds since the epoch; a job's id is its run id.

CREATE TABLE jobs (
  seq           INTEGER PRIMARY KEY AUTOINCREMENT,
  id            TEXT    NOT NULL UNIQUE,
  task          TEXT    NOT NULL,            -- the task's name, for people
  task_type     TEXT    NOT NULL,
  type_version  INTEGER NOT NULL DEFAULT 0,
  root          TEXT    NOT NULL,            -- the URI of the run's folder
  source        TEXT    NOT NULL DEFAULT '{}',  -- JSON: what finds the agent again
  -- the machine's view, see job.py
  stage         TEXT    NOT NULL,
  due           REAL,                        -- NULL while an answer is awaited
  queued_at     REAL    NOT NULL,
  retries       INTEGER NOT NULL DEFAULT 0,
  timeout       REAL,
  active_timeout REAL,
  attempt       INTEGER NOT NULL DEFAULT 0,
  phase         INTEGER NOT NULL,
  message       TEXT    NOT NULL DEFAULT '',
  code          TEXT    NOT NULL DEFAULT '',
  links         TEXT    NOT NULL DEFAULT '[]',  -- JSON: [[uri, name], ...]
  meta          BLOB    NOT NULL DEFAULT x'',
  created_at    REAL,
  polls         INTEGER NOT NULL DEFAULT 0,
  fetched       INTEGER NOT NULL DEFAULT 0,
  faults        INTEGER NOT NULL DEFAULT 0,
  faulty_since  REAL,
  misses        INTEGER NOT NULL DEFAULT 0,
  missing_since REAL,
  trouble       TEXT    NOT NULL DEFAULT '',
  deletes       INTEGER NOT NULL DEFAULT 0,
  cancelled_at  REAL,
  abort         INTEGER NOT NULL DEFAULT 0,
  verdict       TEXT,                        -- JSON: how the attempt ends once its job is cancelled
  job_may_live  INTEGER NOT NULL DEFAULT 0,
  finished_at   REAL
);

CREATE INDEX unfinished_jobs ON jobs (seq) WHERE stage <> 'over';

-- What was handed in: large, and never changed, so not in the row that every transition rewrites.
CREATE TABLE submissions (
  job       TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
  template  BLOB NOT NULL,                   -- a serialised TaskTemplate
  inputs    BLOB NOT NULL                    -- a serialised LiteralMap
) WITHOUT ROWID;

-- Every transition, in the order they happened.
CREATE TABLE events (
  seq      INTEGER PRIMARY KEY AUTOINCREMENT,
  job      TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  at       REAL    NOT NULL,
  attempt  INTEGER NOT NULL,
  stage    TEXT    NOT NULL,
  phase    INTEGER NOT NULL,
  message  TEXT    NOT NULL DEFAULT '',
  note     TEXT    NOT NULL DEFAULT ''
);

CREATE INDEX events_of_a_job ON events (job, seq);

-- What other processes ask of the engine that owns the store.
CREATE TABLE requests (
  seq   INTEGER PRIMARY KEY AUTOINCREMENT,
  job   TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  kind  TEXT NOT NULL CHECK (kind IN ('cancel')),
  at    REAL NOT NULL
);
