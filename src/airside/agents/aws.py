"""Amazon Web Services for agents: whose account is used and where, clients that are kept, and what errors mean."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from airside.agents.http_answer import HttpAnswer
from airside.model import Call, Connection, ConversionError, Fail, NotFound, Retry, Task, UsageError
from airside.model.redaction import hide
from airside.sdk.hosts import HostAllowList
from airside.sdk.secrets import secret

T = TypeVar("T")

VENDOR_HOSTS = ("*.amazonaws.com", "*.amazonaws.com.cn", "*.api.aws")
KEY_ID, SECRET_KEY, SESSION_TOKEN = "aws_access_key_id", "aws_secret_access_key", "aws_session_token"

# Codes of errors that pass: those that botocore itself would repeat a call for, and a few that it leaves out.
PASSING = frozenset(
    {
        *("BandwidthLimitExceeded", "EC2ThrottledException", "LimitExceededException", "PriorRequestNotComplete"),
        *("ProvisionedThroughputExceededException", "RequestLimitExceeded", "RequestThrottled"),
        *("RequestThrottledException", "RequestTimeout", "RequestTimeoutException", "SlowDown", "ThrottledException"),
        *("Throttling", "ThrottlingException", "TooManyRequestsException", "TransactionInProgressException"),
        *("ConcurrentRunsExceededException", "InternalFailure", "InternalServerException", "ServerException"),
        *("InternalServiceException", "OperationTimeoutException", "ServiceUnavailable", "ServiceUnavailableException"),
        *("ClientException.Throttling", "ConcurrentModificationException"),
        *("ExecutionLimitExceeded", "KmsThrottlingException"),
    }
)
REFUSED = frozenset(
    {
        *("AuthFailure", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidAccessKeyId"),
        *("InvalidClientTokenId", "InvalidSignatureException", "MissingAuthenticationToken"),
        *("MissingAuthenticationTokenException", "RequestExpired", "SignatureDoesNotMatch"),
        *("UnrecognizedClientException",),
    }
)
_CODES: Mapping[str, str] = {
    "AccessDenied": "Forbidden",
    "AccessDeniedException": "Forbidden",
    "UnauthorizedOperation": "Forbidden",
    "NotAuthorized": "Forbidden",
    "KmsAccessDeniedException": "Forbidden",
    "ResourceLimitExceeded": "QuotaExceeded",
    "ResourceNumberLimitExceededException": "QuotaExceeded",
    "ServiceQuotaExceededException": "QuotaExceeded",
    "ClientException": "InvalidRequest",
    "InvalidArn": "InvalidRequest",
    "InvalidExecutionInput": "InvalidRequest",
    "InvalidInputException": "InvalidRequest",
    "InvalidRequestException": "InvalidRequest",
    "InvalidParameterException": "InvalidRequest",
    "InvalidParameterValue": "InvalidRequest",
    "ValidationError": "InvalidRequest",
    "ValidationException": "InvalidRequest",
}
_NOT_FOUND = re.compile(r"(ResourceNotFound|EntityNotFound|DoesNotExist|NotFound)(Exception)?\Z")
_IN_USE = re.compile(r"current utilization of [1-9]")
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d{1,2}\Z")
_MOST_ACCOUNTS, _MOST_CLIENTS = 64, 256
_SOCKETS = 32  # that one client keeps open: as many as an agent's two lanes may use
_CONNECTS_WITHIN, _ANSWERS_WITHIN = 10, 25  # seconds
_LONGEST_MESSAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where calls go and whose they are, as an operator sets it. Empty: what the AWS SDK itself finds.

    region: for tasks that name none. profile: of the files of the AWS command line.
    endpoint_url: another address of the service, such as a private one.
    allowed_hosts: hosts besides Amazon's that a connection's `endpoint_url` may name.
    attempts: how often one call is tried by the SDK; the service repeats what fails anyway.
    """

    region: str = ""
    profile: str = ""
    endpoint_url: str = ""
    allowed_hosts: tuple[str, ...] = ()
    attempts: int = 1
    answers_within: int = _ANSWERS_WITHIN


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountOptions:
    """Whose account an agent uses, and where: what the settings of every agent of AWS begin with.

    region: for tasks that name none.
    profile: of the AWS command line's files.
    endpoint_url: another address of the service, such as a private one.
    allowed_hosts: hosts besides Amazon's that a connection may name.
    """

    region: str = ""
    profile: str = ""
    endpoint_url: str = ""
    allowed_hosts: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        """Where calls go."""
        return Place(
            region=self.region,
            profile=self.profile,
            endpoint_url=self.endpoint_url,
            allowed_hosts=self.allowed_hosts,
        )


@dataclass(frozen=True, slots=True)
class Account:
    """Whose calls, and where to. Without keys: the SDK's own chain."""

    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    endpoint_url: str = ""

    @property
    def name(self) -> str:
        return hashlib.sha256(repr((sorted(self.keys.items()), self.endpoint_url)).encode()).hexdigest()


class Aws:
    """Clients by account, service and region: made when first needed, kept, made anew when refused.

    The endpoints that an operator or a connection names are those of `service`; if it is empty, of every one.
    """

    def __init__(self, place: Place, service: str = "") -> None:
        check_region(place.region)
        self._place = place
        self._service = service
        self._hosts = HostAllowList([*VENDOR_HOSTS, *place.allowed_hosts])
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, Any] = OrderedDict()
        self._clients: OrderedDict[tuple[str, str, str], Any] = OrderedDict()

    def ask(
        self,
        call: Call | Task,
        service: str,
        region: str,
        question: Callable[[Any], T],
        *,
        creating: bool = False,
        is_missing: Callable[[str, str], bool] = lambda _code, _message: False,
    ) -> T:
        """The answer to one question, or `Retry`, `Fail` or `NotFound`.

        `is_missing(code, message)` tells the service's own way to say that it does not know a job.
        """
        client = None
        try:
            client = self.client(call.connection, service, region)
            return question(client)
        except Exception as exc:
            if client is not None and code_of(exc) in REFUSED:
                self._drop(client)
            raise failure(exc, creating=creating, is_missing=is_missing) from exc

    def client(self, connection: Connection | None, service: str, region: str) -> Any:
        """The client of this account. Raises `Fail` for a region, host or keys that cannot be used."""
        account = self._account(connection)
        region = region or (connection.configs.get("region", "") if connection is not None else "")
        region = check_region(region) or self._place.region or os.environ.get("AWS_REGION", "")
        name = (account.name, service, region)
        with self._lock:  # one at a time: making clients of one session is not safe in threads
            client = self._clients.get(name)
            if client is None:
                client = self._clients[name] = self._make(account, service, region)
                while len(self._clients) > _MOST_CLIENTS:
                    self._clients.popitem(last=False)
            self._clients.move_to_end(name)
        return client

    def identity(self) -> str:
        """Where the keys come from, for tasks that bring none. Raises `Fail` if there are none."""
        account = self._account(None)
        if account.keys:
            return f"the secret {KEY_ID}"
        with self._lock:
            found = self._session(account).get_credentials()
        if found is None:
            raise Fail(f"There are no AWS credentials: set the secret {KEY_ID}, or any that boto3 finds.")
        return f"found by boto3 ({found.method})"

    def close(self) -> None:
        """Close the sockets."""
        with self._lock:
            kept, self._clients = list(self._clients.values()), OrderedDict()
            self._sessions.clear()
        for client in kept:
            client.close()

    def _account(self, connection: Connection | None) -> Account:
        brought = keys_of(connection.secrets) if connection is not None else {}
        endpoint = connection.configs.get("endpoint_url", "") if connection is not None else ""
        if endpoint:
            self._hosts.check(endpoint)
        return Account(brought or own_keys(), endpoint)

    def _make(self, account: Account, service: str, region: str) -> Any:
        from botocore.config import Config

        config = Config(
            connect_timeout=_CONNECTS_WITHIN,
            read_timeout=self._place.answers_within,
            max_pool_connections=_SOCKETS,
            retries={"total_max_attempts": self._place.attempts, "mode": "standard"},
            user_agent_extra="airside",
        )
        is_its_own = self._service in ("", service)
        endpoint = (account.endpoint_url or self._place.endpoint_url) if is_its_own else ""
        return self._session(account).client(
            service, region_name=region or None, endpoint_url=endpoint or None, config=config
        )

    def _session(self, account: Account) -> Any:
        import boto3

        session = self._sessions.get(account.name)
        if session is None:
            session = boto3.Session(**account.keys, profile_name=None if account.keys else self._place.profile or None)
            self._sessions[account.name] = session
            while len(self._sessions) > _MOST_ACCOUNTS:
                self._sessions.popitem(last=False)
        return session

    def _drop(self, client: Any) -> None:
        """Read the credentials anew next time: these were refused, and may have been renewed."""
        with self._lock:
            for name, one in list(self._clients.items()):
                if one is client:
                    del self._clients[name]
                    self._sessions.pop(name[0], None)


def keys_of(secrets: Mapping[str, str]) -> dict[str, str]:
    """The keys among secrets, hidden from now on. Raises `Fail` for one half of a pair."""
    keys = {name: secrets[name] for name in (KEY_ID, SECRET_KEY, SESSION_TOKEN) if secrets.get(name)}
    if keys and not {KEY_ID, SECRET_KEY} <= set(keys):
        raise Fail(f"AWS keys come as a pair: set both {KEY_ID} and {SECRET_KEY}.", code="CredentialsNotUsable")
    for name in (SECRET_KEY, SESSION_TOKEN):
        hide(keys.get(name, ""), passing=True)
    return keys


def own_keys() -> dict[str, str]:
    """The keys of the agent's secrets, if they are there."""
    found: dict[str, str] = {}
    for name in (KEY_ID, SECRET_KEY, SESSION_TOKEN):
        try:
            found[name] = secret(name)
        except UsageError:
            continue
    return keys_of(found)


def check_region(region: str) -> str:
    """The region as it is; `Fail` if it cannot be one, since it becomes part of a host's name.

    >>> check_region("us-gov-west-1"), check_region("")
    ('us-gov-west-1', '')
    >>> check_region("x.example.org/")
    Traceback (most recent call last):
    airside.model.errors.Fail: 'x.example.org/' is no region of AWS; it looks like eu-west-1.
    """
    if region and not _REGION.match(region):
        raise Fail(f"{region!r} is no region of AWS; it looks like eu-west-1.", code="InvalidRegion")
    return region


def console(region: str) -> str:
    """Where the console of a region is.

    >>> console("eu-west-1"), console("us-gov-west-1")
    ('https://eu-west-1.console.aws.amazon.com', 'https://console.amazonaws-us-gov.com')
    """
    if region.startswith("us-gov-"):
        return "https://console.amazonaws-us-gov.com"
    return f"https://{region}.console.{'amazonaws.cn' if region.startswith('cn-') else 'aws.amazon.com'}"


def code_of(exc: BaseException) -> str:
    """The code of an AWS error; empty for anything else."""
    response = getattr(exc, "response", None)
    error = response.get("Error") if isinstance(response, dict) else None
    return str(error.get("Code") or "") if isinstance(error, dict) else ""


def failure(
    exc: Exception,
    *,
    creating: bool,
    is_missing: Callable[[str, str], bool] = lambda _code, _message: False,
) -> Exception:
    """The error of a call to AWS as an agent raises it: `Retry`, `Fail` or `NotFound`.

    Only a create fails for good: a job that is there is asked for again, whatever the answer was.
    """
    response: Any = getattr(exc, "response", None)
    if not isinstance(response, dict) or "ResponseMetadata" not in response:
        return _without_answer(exc, creating=creating)
    error, about = response.get("Error") or {}, response["ResponseMetadata"]
    code, status = str(error.get("Code") or ""), int(about.get("HTTPStatusCode") or 0)
    message = words(str(error.get("Message") or error.get("message") or code or "no message"))
    text = f"AWS answered {code or status}: {message}"
    passing = code in PASSING or code in REFUSED or status in (408, 429) or status >= 500 or _is_in_use(code, message)
    if not passing and is_missing(code, message) and not creating:
        return NotFound(text)
    if passing or not creating:
        headers = {str(name).lower(): str(value) for name, value in (about.get("HTTPHeaders") or {}).items()}
        return Retry(text, after=HttpAnswer(status, headers, None).retry_after)
    if _NOT_FOUND.search(code):
        return Fail(message, code="ResourceNotFound")
    return Fail(message, code=_CODES.get(code) or code.removesuffix("Exception") or "InvalidRequest")


def _is_in_use(code: str, message: str) -> bool:
    """True for a quota of SageMaker's that others use up just now; one that nobody uses is too small for good."""
    return code == "ResourceLimitExceeded" and _IN_USE.search(message) is not None


def words(text: str) -> str:
    """A message in one line of bounded length."""
    return " ".join(text.split())[:_LONGEST_MESSAGE]


def _without_answer(exc: Exception, *, creating: bool) -> Exception:
    """A call that brought no answer of AWS's: the network, a malformed body, no credentials, a wrong argument."""
    if isinstance(exc, Fail | Retry | NotFound | ConversionError):
        return exc if creating or not isinstance(exc, Fail) else Retry(exc.message)
    name, said = type(exc).__name__, words(str(exc))
    match name:
        case "NoCredentialsError" | "PartialCredentialsError" | "CredentialRetrievalError":
            return Retry(f"There are no credentials for AWS: {said}", after=60)
        case "NoRegionError" if creating:
            return Fail("No region is named: set it in the task, in the agent's settings or in AWS_REGION.")
        case "ParamValidationError" | "UnknownServiceError" | "InvalidRegionError" if creating:
            return Fail(said, code="InvalidRequest")
    return Retry(f"AWS could not be asked: {name}: {said}")
