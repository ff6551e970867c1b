"""Slurm's refusals told apart, by the words that it writes."""

from __future__ import annotations

from airside.model import AgentError, Fail, NotFound, Retry

# The first line that fits counts. Slurm has numbers for its errors too, but its programs print these words alone.
_TABLE: tuple[tuple[str, str], ...] = (
    ("invalid job id", "not found"),
    ("unable to contact slurm controller", "system"),
    ("slurm backup controller in standby", "system"),
    ("socket timed out", "system"),
    ("zero bytes were transmitted", "system"),
    ("connection refused", "system"),
    ("connection timed out", "system"),
    ("resource temporarily unavailable", "system"),
    ("message receive failure", "system"),
    ("message send failure", "system"),
    ("transport endpoint", "system"),
    ("problem talking to the database", "system"),
    ("unable to connect to database", "system"),
    ("munge", "system"),
    ("no space left on device", "system"),
    ("required node not available", "system"),
    ("required partition not available", "system"),
    ("temporarily unable to accept job", "quota"),
    ("job violates accounting/qos policy", "quota"),
    ("submitjob", "quota"),
    ("submit limit", "quota"),
    ("maximum number of jobs", "quota"),
    ("access/permission denied", "forbidden"),
    ("permission denied", "forbidden"),
    ("not permitted", "forbidden"),
    ("invalid account", "forbidden"),
    ("authentication failure", "forbidden"),
    ("user id is invalid", "forbidden"),
)
_QUOTA_PAUSE = 60.0  # seconds


def kind_of(words: str) -> str:
    """What kind of refusal this is: "not found", "system", "quota", "forbidden", or "user" for any other.

    >>> kind_of("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)")
    'system'
    >>> kind_of("sbatch: error: invalid partition specified: nope")
    'user'
    """
    lower = words.lower()
    return next((kind for fragment, kind in _TABLE if fragment in lower), "user")


def refusal(doing: str, words: str, *, user: bool = True) -> AgentError:
    """The error to raise for what Slurm said while `doing` something.

    `user`: words that are not in the table mean a mistake in the task; else they are worth another try.
    """
    said = one_line(words) or "no reason given"
    kind = kind_of(words)
    message = f"{doing}: {said}"
    match kind:
        case "not found":
            return NotFound(message)
        case "quota":
            return Retry(message, after=_QUOTA_PAUSE)
        case "forbidden":
            return Fail(message, code="Forbidden")
        case "user" if user:
            return Fail(message, code="InvalidRequest")
    return Retry(message)


def one_line(words: str, longest: int = 500) -> str:
    """What a program of Slurm said, on one line and without its own name.

    >>> one_line("sbatch: error: Batch job submission failed: Invalid qos specification")
    'Batch job submission failed: Invalid qos specification'
    """
    lines = []
    for line in words.splitlines():
        bare = line.strip()
        for program in ("sbatch", "squeue", "sacct", "scancel", "scontrol"):
            bare = bare.removeprefix(f"{program}: ")
        bare = bare.removeprefix("error: ")
        if bare:
            lines.append(bare)
    return "; ".join(lines)[:longest]
