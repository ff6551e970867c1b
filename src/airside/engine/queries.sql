-- Every statement that the engine executes, by name. A name stands on the line before its statement.

-- name: insert_job
INSERT INTO jobs (id, task, task_type, type_version, root, source, attended, cache_key, reads_cache,
                  stage, due, queued_at, retries, timeout, active_timeout, phase)
VALUES (:id, :task, :task_type, :type_version, :root, :source, :attended, :cache_key, :reads_cache,
        :stage, :due, :queued_at, :retries, :timeout, :active_timeout, :phase);

-- name: insert_submission
INSERT INTO submissions (job, template, inputs) VALUES (:job, :template, :inputs);

-- name: update_job
UPDATE jobs
SET stage = :stage, due = :due, attempt = :attempt, phase = :phase, message = :message, code = :code, links = :links,
    meta = :meta, created_at = :created_at, polls = :polls, fetched = :fetched, faults = :faults,
    faulty_since = :faulty_since, misses = :misses, missing_since = :missing_since, trouble = :trouble,
    deletes = :deletes, cancelled_at = :cancelled_at, abort = :abort, verdict = :verdict,
    job_may_live = :job_may_live, finished_at = :finished_at
WHERE id = :id;

-- name: insert_event
INSERT INTO events (job, at, attempt, stage, phase, message, note)
VALUES (:job, :at, :attempt, :stage, :phase, :message, :note);

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

-- name: insert_outputs
INSERT OR REPLACE INTO outputs (job, data) VALUES (:job, :data);

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
