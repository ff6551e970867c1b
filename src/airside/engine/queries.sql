-- Every statement that the engine executes, by name. A name stands on the line before its statement.
-- A row of question marks is repeated as needed: one statement writes many rows (`rows.py`).

-- name: insert_jobs
INSERT INTO jobs (id, task, task_type, type_version, root, source, attended, cache_key, reads_cache,
                  stage, due, queued_at, retries, timeout, active_timeout, phase)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_submissions
INSERT INTO submissions (job, template, inputs) VALUES (?, ?, ?);

-- name: update_jobs
UPDATE jobs
SET stage = new.column2, due = new.column3, attempt = new.column4, phase = new.column5,
    message = new.column6, code = new.column7, links = new.column8, meta = new.column9,
    created_at = new.column10, polls = new.column11, fetched = new.column12, faults = new.column13,
    faulty_since = new.column14, misses = new.column15, missing_since = new.column16,
    trouble = new.column17, deletes = new.column18, cancelled_at = new.column19, abort = new.column20,
    verdict = new.column21, job_may_live = new.column22, finished_at = new.column23
FROM (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)) AS new
WHERE id = new.column1;

-- name: insert_events
INSERT INTO events (job, at, attempt, stage, phase, message, note) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: insert_outputs
INSERT OR REPLACE INTO outputs (job, data) VALUES (?, ?);

-- name: unfinished_jobs
SELECT * FROM jobs WHERE stage <> 'over' AND seq > :after ORDER BY seq;

-- name: newest_job
SELECT MAX(seq) AS seq FROM jobs;

-- name: job
SELECT * FROM jobs WHERE id = :id;

-- name: jobs_like
SELECT * FROM jobs WHERE id >= :prefix AND id < :prefix || 'g' ORDER BY seq LIMIT 5;

-- name: latest_jobs
SELECT * FROM jobs
WHERE (:unfinished = 0 OR stage <> 'over')
  AND (:phase IS NULL OR phase = :phase)
  AND (:task IS NULL OR task = :task OR task_type = :task)
  AND queued_at >= :after
ORDER BY seq DESC LIMIT :limit;

-- name: count_by_stage
SELECT stage, COUNT(*) AS jobs FROM jobs GROUP BY stage;

-- name: submission
SELECT template, inputs FROM submissions WHERE job = :job;

-- name: outputs
SELECT data FROM outputs WHERE job = :job;

-- name: events
SELECT * FROM events WHERE job = :job ORDER BY seq;

-- name: cached_job
SELECT * FROM jobs
WHERE cache_key = :key AND cache_key <> '' AND stage = 'over' AND phase = :phase
ORDER BY seq DESC LIMIT 1;

-- name: insert_request
INSERT INTO requests (job, kind, at) VALUES (:job, :kind, :at);

-- name: requests
SELECT seq, job, kind FROM requests ORDER BY seq;

-- name: delete_request
DELETE FROM requests WHERE seq = :seq;

-- name: finished_before
SELECT id, root FROM jobs WHERE stage = 'over' AND finished_at < :before ORDER BY seq;

-- name: folders
SELECT root FROM jobs;

-- name: delete_job
DELETE FROM jobs WHERE id = :id AND stage = 'over';
