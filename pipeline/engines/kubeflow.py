"""Kubeflow Pipelines behind one small seam: kfp.Client, each of its errors in one line, its remarks kept off our stdout."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.compile import Compiled, OnCluster, compiled_pipeline
from pipeline.cron import six_fields
from pipeline.dag import one_step
from pipeline.engines.base import Engine, LoggedOut, Schedule, Unreachable, Version
from pipeline.engines.credentials import renewing, token_of, variable
from pipeline.engines.kubeflow_answers import Strange, check_answers, check_asked, id_in
from pipeline.engines.kubeflow_schedules import replace
from pipeline.engines.run_state import RunState, run_state
from pipeline.profile import Profile
from sida.errors import SidaError, UserError
from sida.foreign.fetch import LOCAL_HOSTS
from sida.launch.answers import bound_answers
from sida.patience import hush_retries
from sida.printing import one_line
from sida.records import StepCall

LOOK = (
    "the run may have been started all the same: look with `sida status --profile PROFILE` before it is started again"
)
MOST_PAGES = 1000  # of a list
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two bytes


class NoKubeflow(UserError):
    """Something else than Kubeflow Pipelines answers; ``said`` is what it says, as JSON has it."""

    def __init__(self, message: str, said: object) -> None:
        super().__init__(message)
        self.said = said


class Client(Engine):
    """Connection to one KFP server."""

    def __init__(self, profile: Profile) -> None:
        self._profile, self._server = profile.kfp, profile.kfp.host or "the Kubeflow Pipelines of this cluster"
        self.place = f"experiment {profile.kfp.experiment}"
        hush_retries()
        with self._errors("connect"):
            self._kfp = _connect(profile)
            self._check_version()

    # -- pipelines

    def upload(self, compiled: Compiled, description: str) -> Version:
        """Return the version of a compiled pipeline, named after recipe, day and digest; upload each digest only once."""
        with self._errors("upload the pipeline"):
            pipeline_id = self._pipeline_id(compiled.name) or self._create_pipeline(compiled.name, description)
            for version in _listed(self._kfp.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline_id):
                if str(version.display_name).endswith(f"-{compiled.mark}"):
                    return Version(version.pipeline_version_id, version.display_name, False, pipeline_id)
            today = time.strftime("%Y-%m-%d", time.gmtime())
            name = f"{compiled.name.removeprefix('sida-')}-{today}-{compiled.mark}"
            with _file(compiled.text) as path:
                version = self._kfp.upload_pipeline_version(
                    path, name, pipeline_id=pipeline_id, description=f"sha256:{compiled.digest}. {description}"
                )
            return Version(version.pipeline_version_id, name, True, pipeline_id)

    def _pipeline_id(self, name: str) -> str:
        pipelines = self._kfp.list_pipelines(
            namespace=self._profile.namespace, filter=_named(name), page_size=100
        ).pipelines
        return next((p.pipeline_id for p in pipelines or [] if name in (p.display_name, p.name)), "")

    def _create_pipeline(self, name: str, description: str) -> str:
        from kfp_server_api import V2beta1Pipeline

        body = V2beta1Pipeline(display_name=name, name=name, description=description, namespace=self._profile.namespace)
        return str(self._kfp.pipelines.pipeline_service_create_pipeline(pipeline=body).pipeline_id)

    # -- runs

    def start(self, name: str, version: Version, parameters: dict[str, str]) -> str:
        """Start a run of an uploaded version; return its id."""
        return self._start(name, parameters, pipeline_id=version.pipeline_id, version_id=version.version_id)

    def start_step(self, call: StepCall, title: str, arguments: list[str], cluster: OnCluster) -> str:
        """Start a run of one step, of a pipeline that is not kept."""
        pipeline = one_step(call, arguments, cluster)
        with _file(compiled_pipeline(pipeline.name, pipeline).text) as path:
            return self._start(title, {}, pipeline_package_path=path)

    def _start(self, name: str, parameters: dict[str, str], **pipeline: str) -> str:
        """Start a run; return its id, also where the rest of the answer cannot be read: a second try would start a second run."""
        with self._errors("start the run"):
            experiment = self._experiment()
        try:
            with self._errors("start the run", unsure=LOOK):
                run = self._kfp.run_pipeline(experiment, name, params=parameters, **pipeline, **self._pods())
                return str(run.run_id)
        except NoKubeflow as error:
            if found := id_in(error.said) or self._only_one(experiment, name):
                return found
            raise

    def _only_one(self, experiment: str, name: str) -> str:
        """Return the id of the run of this name; empty where that cannot be seen, or there are several."""
        options = {"experiment_id": experiment, "sort_by": "created_at desc", "filter": _named(name)}
        try:
            with self._errors("find the run"):
                found = [
                    run.run_id
                    for run in _listed(self._kfp.list_runs, "runs", page_size=100, **options)
                    if run.display_name == name
                ]
        except SidaError:
            return ""
        return found[0] if len(found) == 1 else ""

    def _pods(self) -> dict[str, str | None]:
        """Return what the profile says of a run's pods."""
        return {"pipeline_root": self._profile.pipeline_root, "service_account": self._profile.service_account}

    def run(self, run_id: str) -> RunState:
        """Return the state of a run. Raises UserError for one that the server does not know."""
        missing = f"no run {run_id!r}: `status --profile` lists runs with their ids"
        with self._errors(f"find run {run_id}", missing):
            return run_state(check_asked(self._kfp.get_run(run_id), run_id=run_id))

    def runs(self, count: int) -> list[RunState]:
        """Return the newest runs of our experiment, without their tasks."""
        with self._errors("list the runs"):
            named = _named(self._profile.experiment)
            experiments = self._kfp.list_experiments(namespace=self._profile.namespace, filter=named).experiments
            if not experiments:
                return []
            check_asked(experiments[0], display_name=self._profile.experiment)
            options = {"sort_by": "created_at desc", "experiment_id": experiments[0].experiment_id}
            runs = _listed(self._kfp.list_runs, "runs", page_size=min(count, 100), **options)
            return [run_state(run) for run in islice(runs, count)]

    def terminate(self, run_id: str) -> None:
        """Ask KFP to end a run."""
        with self._errors(f"cancel run {run_id}"):
            self._kfp.terminate_run(run_id)

    def link(self, run_id: str) -> str:
        """Return the address of a run's page in the UI."""
        base = self._profile.ui or self._profile.host or ""
        return f"{base.rstrip('/')}/#/runs/details/{run_id}"

    def _experiment(self) -> str:
        experiment = self._kfp.create_experiment(self._profile.experiment, namespace=self._profile.namespace)
        return str(check_asked(experiment, display_name=self._profile.experiment).experiment_id)

    # -- schedules

    def cron(self, text: str) -> str:
        """Return KFP's six fields."""
        return six_fields(text)

    def schedule(self, name: str, cron: str, version: Version, parameters: dict[str, str]) -> Schedule:
        """Return the recurring run that these make."""
        root, account = self._profile.pipeline_root or "", self._profile.service_account or ""
        return Schedule(name, cron, version.version_id, parameters, pipeline_root=root, service_account=account)

    def put_schedule(
        self, target: Schedule, there: list[Schedule], same: Schedule | None, version: Version, description: str
    ) -> None:
        """Replace recurring runs, which KFP cannot change."""
        replace(self, target, there, same, version.pipeline_id, description)

    def schedules(self, name: str = "") -> list[Schedule]:
        """Return the recurring runs of our experiment, or those called ``name`` (KFP allows several)."""
        with self._errors("list the schedules"):
            listed = _listed(self._kfp.list_recurring_runs, "recurring_runs", experiment_id=self._experiment())
            return [_schedule(item) for item in listed if name in ("", item.display_name)]

    def create_schedule(self, schedule: Schedule, pipeline_id: str, description: str) -> str:
        """Create a recurring run without catch-up, one run at a time, enabled or not as ``schedule`` says; return its id."""
        with self._errors("create the schedule"):
            created = self._kfp.create_recurring_run(
                self._experiment(),
                schedule.name,
                description=description,
                cron_expression=schedule.cron,
                max_concurrency=1,
                no_catchup=True,
                enabled=schedule.enabled,
                params=schedule.parameters,
                pipeline_id=pipeline_id,
                version_id=schedule.version_id,
                **self._pods(),
            )
            return str(created.recurring_run_id)

    def delete_schedule(self, schedule_id: str) -> None:
        """Remove a recurring run; its past runs stay."""
        with self._errors("delete the schedule"):
            self._kfp.delete_recurring_run(schedule_id)

    def enable_schedule(self, schedule_id: str, enabled: bool) -> None:
        """Pause a recurring run, or let it go on."""
        with self._errors("change the schedule"):
            change = self._kfp.enable_recurring_run if enabled else self._kfp.disable_recurring_run
            change(schedule_id)

    def found(self) -> str:
        """Return where the server answered."""
        return f"{self._profile.host or 'found through kubectl'} answers"

    # -- errors

    def _check_version(self) -> None:
        _, _, headers = self._kfp._healthz_api.healthz_service_get_healthz_with_http_info()
        if "json" not in str(headers.get("Content-Type", "json")).lower():
            raise UserError(
                f"{self._server} answers with a web page, not as the API does (a login page?): "
                f"give kfp.token_variable, kfp.token_file or kfp.cookies_variable in the profile, and check kfp.host"
            )

    @contextlib.contextmanager
    def _errors(self, doing: str, missing: str = "", unsure: str = "") -> Iterator[None]:
        """Raise kfp's and urllib3's exceptions as ours; silence kfp, which prints links and warns about its own future.

        ``unsure``: what to do where it may have been done, though no answer says so.
        """
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError, MaxRetryError

        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                yield
        except (SidaError, OSError):  # the latter: of this machine
            raise
        except ApiException as error:
            raise self._refused(error, doing, missing, unsure) from error
        except HTTPError as error:
            if unsure and not isinstance(error, MaxRetryError):  # which was never sent
                raise Unreachable(f"{self._server} breaks off ({_reason(error)}): {unsure}") from error
            raise Unreachable(
                f"{self._server} does not answer ({_reason(error)}): check kfp.host of the profile, "
                f"or start `kubectl -n kubeflow port-forward svc/ml-pipeline 8888`"
            ) from error
        except Exception as error:  # of kfp, on what is no answer
            why = str(error) if isinstance(error, Strange) else one_line(f"{type(error).__name__}: {error}", 100)
            raise NoKubeflow(
                f"{self._server} does not answer as Kubeflow Pipelines does ({why}), so it cannot {doing}: "
                f"{unsure or 'check kfp.host'}",
                getattr(error, "said", None),
            ) from error

    def _refused(self, error: Any, doing: str, missing: str, unsure: str) -> SidaError:
        message = _message(error.body)
        if error.status in (401, 403):
            reason = "not logged in" if error.status == 401 else f"not allowed to {doing}"
            return (LoggedOut if error.status == 401 else UserError)(
                f"{self._server}: {reason} ({error.status}{f', {message}' if message else ''}): renew KFP_TOKEN, or what "
                f"kfp.token_variable, kfp.token_file or kfp.cookies_variable names, and check kfp.namespace"
            )
        if error.status == 404 and missing:
            return UserError(f"{self._server}: {missing}")
        if error.status == 404 and doing == "connect":
            return UserError(
                f"{self._server} has no /apis/v2beta1: Kubeflow Pipelines 2.x is needed there; check kfp.host (the API's address, "
                f"without /#/)"
            )
        if error.status in (400, 409):
            return UserError(f"{self._server} refused to {doing}: {message or error.reason}")
        unsure = unsure if error.status >= 500 else ""
        return SidaError(
            f"{self._server} failed to {doing}: {error.status} {message or error.reason}: {unsure or 'try again'}"
        )


def _connect(profile: Profile) -> Any:
    """Return a kfp.Client with bounded waits, which does not ask for health five times before it reports a refusal."""
    import kfp

    class Quick(kfp.Client):
        def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
            _bound(self)  # the constructor asks already
            return self._healthz_api.healthz_service_get_healthz()

        def _load_context_setting_or_default(self) -> None:
            super()._load_context_setting_or_default()
            if options.namespace:  # the user's; the constructor's is that of the servers
                self._context_setting["namespace"] = options.namespace

    options = profile.kfp
    token, cookies = token_of(options), variable("kfp.cookies_variable", options.cookies_variable)
    host = urlsplit(options.host or "")
    if not options.verify_tls and host.scheme != "http":
        _warn(
            "kfp.verify_tls is false: whoever is on the way can read and change what is sent: give kfp.ca_file instead"
        )
    if (token or cookies) and host.scheme == "http" and host.hostname not in LOCAL_HOSTS:
        _warn(f"{options.host} has no TLS: whoever is on the way can read the token or cookies: use https://")
    client = Quick(
        host=options.host,
        existing_token=token() if token else None,
        cookies=cookies,
        ssl_ca_cert=options.ca_file,
        verify_ssl=options.verify_tls,
        ui_host=options.ui,
    )
    if token:
        client._existing_config.refresh_api_key_hook = renewing(token)
    _bound(client)
    return client


def _bound(client: Any) -> None:
    """Bound a client's waits and answers, and have these checked, once."""
    api = client._healthz_api.api_client
    rest = api.rest_client
    if getattr(rest.request, "is_bounded", False):
        return
    request = rest.request

    def bounded(*args: Any, _request_timeout: Any = None, **more: Any) -> Any:
        return request(*args, _request_timeout=_request_timeout or TIMEOUT, **more)

    bounded.is_bounded = True  # type: ignore[attr-defined]
    rest.request = bounded
    bound_answers(rest.pool_manager)
    check_answers(api)


@cache
def _warn(text: str) -> None:
    """Print a warning, once in the life of this process."""
    print(f"warning: {text}", file=sys.stderr)


def _listed(call: Callable[..., Any], field: str, *, page_size: int = 100, **options: str) -> Iterator[Any]:
    """Yield the items of a list that the server gives page by page."""
    token: str | None = ""
    for _ in range(MOST_PAGES):
        page = call(page_token=token, page_size=page_size, **options)
        asked = {name: options[name] for name in ("pipeline_id", "experiment_id") if name in options}
        yield from (check_asked(item, **asked) for item in getattr(page, field) or [])
        token = page.next_page_token or None
        if token is None:
            return
    raise ValueError(f"a list of {field} of more than {MOST_PAGES:,} pages")


def _named(name: str) -> str:
    """Return the filter for what is called ``name``."""
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})


def _schedule(item: Any) -> Schedule:
    cron = item.trigger.cron_schedule.cron if item.trigger and item.trigger.cron_schedule else ""
    reference, runtime = item.pipeline_version_reference, item.runtime_config
    return Schedule(
        name=item.display_name or "",
        cron=cron or "no cron",
        version_id=reference.pipeline_version_id if reference else item.pipeline_version_id or "",
        parameters={name: str(value) for name, value in ((runtime and runtime.parameters) or {}).items()},
        pipeline_root=(runtime and runtime.pipeline_root) or "",
        service_account=item.service_account or "",
        enabled=item.status != "DISABLED",
        schedule_id=item.recurring_run_id,
    )


def _message(body: Any) -> str:
    """Return the server's message in one line: grpc-gateway's error or message."""
    try:
        answer = json.loads(body)
        text = answer.get("error_message") or answer.get("message") or answer.get("error") or ""
    except (TypeError, ValueError, AttributeError):
        return ""
    return one_line(str(text), 300)


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", None) or error
    return one_line(str(inner).rpartition(": ")[2], 200) or type(inner).__name__


@contextlib.contextmanager
def _file(text: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        path.write_text(text, encoding="utf-8")
        yield str(path)
