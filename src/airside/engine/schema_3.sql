-- What version 3 adds: outputs that share the commit of their job's end, so their file needs no fsync of its own.

CREATE TABLE outputs (
  job   TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
  data  BLOB NOT NULL                        -- a serialised LiteralMap, as in outputs.pb
) WITHOUT ROWID;
