//! Deployed apps: making versions of them, finding them, and being their process.

mod calls;
mod content;
mod host;
mod keep;
mod notice;
mod program;
mod remote;
mod schedule;
mod timers;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lamina_apps::{AppsError, Deployment, DeploymentName, Deployments, LogPosition, NewVersion};
use lamina_events::{CancelToken, Event, Sink};
use lamina_functions::ServiceSpec;
use lamina_ground::{ErrorClass, Hint, causes};
use lamina_store::Layout;
use lamina_volumes::Volumes;
use lamina_wire::Sender;
use serde_json::{Value, json};

use crate::app::spec;
use crate::host::Running;
use crate::protocol::{Answer, AppRequest, DeployRequest, DeploymentErrand, Failure, FunctionRequest, Hello};
use crate::{Engine, EngineError, store_directory, volumes};

pub(crate) use content::{Content, Ground};
pub use host::serve_deployed;
pub use keep::{KEEPING_UNIT, KeepingEnd, KeepingNews, keep_deployed};
use notice::Notice;
pub(crate) use remote::Remotes;
pub(crate) use schedule::Schedule;

impl From<AppsError> for Failure {
    fn from(error: AppsError) -> Self {
        Self { hint: error.hint().map(Cow::into_owned), ..Self::new(error.class(), causes(&error)) }
    }
}

/// The deployed apps of this user's store. No helper process is needed for them.
///
/// # Errors
/// When the store cannot be used.
pub fn deployments() -> Result<Deployments, EngineError> {
    let root = store_directory()?;
    Ok(Deployments::new(if root.exists() { Layout::prepare(&root)? } else { Layout::of_no_store(root) }))
}

/// Answers a program that wants to call a deployed app: with a connection to the app's process, which is started if need
/// be, or with an error.
///
/// # Errors
/// When the program does not listen.
pub fn introduce(socket: UnixStream, environment: &str, app: &str) -> Result<(), EngineError> {
    let sender = Sender::new(socket);
    let connected = deployments().map_err(Failure::from).and_then(|deployments| {
        // The id of a call stands for the app that keeps it.
        let name = match app.strip_prefix("fc-") {
            Some(_) => deployments.app_of_call(app)?,
            None => DeploymentName::new(environment, app)?,
        };
        Ok(deployments.connect(&name, &CancelToken::new())?)
    });
    match connected {
        Ok((deployment, socket)) => {
            let functions = BTreeMap::new();
            let answer = Answer::Attached { request: 0, app_id: &deployment.id, functions, elsewhere: true };
            sender.send(&answer.encode(), &[], &[socket.as_fd()])?;
        }
        Err(failure) => {
            let failure = &failure.with_record();
            sender.send(&Answer::Error { request: Some(0), failure }.encode(), &[], &[])?;
        }
    }
    Ok(())
}

/// Has the process of an app, if it runs, use the version that is the current one now. Inputs of the former one end on it,
/// or with it where it is to be `recreate`d. A process that runs with another version of `modal` understands none of this, and
/// is ended: the answer is true then.
///
/// # Errors
/// When it cannot.
pub fn take_over(deployments: &Deployments, name: &DeploymentName, recreate: bool) -> Result<bool, EngineError> {
    let failed = |error: AppsError| EngineError::NotTakenOver(causes(&error));
    let Some(socket) = deployments.connect_if_running(name).map_err(failed)? else { return Ok(false) };
    let is_strange = notice::update(socket, recreate)? == Notice::NotUnderstood;
    if is_strange {
        deployments.stop_host(name).map_err(failed)?;
    }
    Ok(is_strange)
}

/// An app of which a version was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its name.
    pub name: DeploymentName,
    /// Where in its output begins what it has printed since.
    pub output: LogPosition,
}

impl Engine {
    /// The app that was deployed last over this engine, if one was.
    #[must_use]
    pub fn recorded(&self) -> Option<Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The deployed apps of the store.
    pub(crate) fn deployments(&self) -> Deployments {
        Deployments::new(self.store.layout().clone())
    }

    /// Records what was made ready as a version of a deployed app, and has the app's process use it.
    pub(crate) fn record_version(
        &self,
        hello: &Hello,
        request: &[u8],
        wanted: &DeployRequest,
        grounds: BTreeMap<String, Ground>,
        sink: &Sink,
        cancel: &CancelToken,
    ) -> Result<Value, Failure> {
        let AppRequest { app, .. } = &wanted.app;
        let name = DeploymentName::new(&app.environment, app.name.as_deref().unwrap_or_default())?;
        let layers: Vec<_> = grounds.values().flat_map(|ground| ground.layers().bottom_up().to_vec()).collect();
        let functions: Vec<String> = grounds.keys().cloned().collect();
        let internal = |error: serde_json::Error| Failure::new(ErrorClass::ExecutionError, error.to_string());
        let content = Content::new(request, &hello.package, grounds).map_err(internal)?;
        let content = serde_json::to_value(content).map_err(internal)?;
        let new = NewVersion {
            content: &content,
            is_same: &|present| content::is_same(present, &content, |layer| self.store.content_of(layer)),
            client: &hello.package,
            by: &wanted.by,
            commit: wanted.commit.as_deref(),
            tag: &wanted.tag,
            tags: wanted.tags.as_ref(),
        };
        let waiting = || {
            sink.emit(Event::Warning { message: format!("another `modal` changes the app {name}: waiting for it") });
        };
        let output = self.deployments().end_of_log(&name);
        let deployed = {
            // Until the version is there, nothing else names all of its layers.
            let _kept = self.store.hold_off_collection().map_err(|error| Failure::of_store(&error))?;
            if !self.store.begin_hold(&layers).map_err(|error| Failure::of_store(&error))? {
                let message = "a layer was removed while the app was deployed: deploy it again";
                return Err(Failure::new(ErrorClass::ConflictError, message));
            }
            self.deployments().deploy(&name, &new, cancel, waiting)?
        };
        *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = Some(Recorded { name: name.clone(), output });
        if deployed.is_new {
            let recreate = wanted.strategy.as_deref() == Some("recreate");
            if take_over(&self.deployments(), &name, recreate)? {
                let message =
                    format!("the process of the app {name} ran with another version of `modal`, and was ended");
                sink.emit(Event::Warning { message });
            }
            if wanted.app.functions.iter().any(stays) {
                // As in `start_deployed`.
                let _connected = self.deployments().connect(&name, cancel)?;
                take_over(&self.deployments(), &name, false)?;
            }
        }
        Ok(json!({
            "app_id": deployed.deployment.id,
            "name": name.name(),
            "environment": name.environment(),
            "version": deployed.deployment.current,
            "is_new": deployed.is_new,
            "functions": functions,
        }))
    }

    /// Does something with deployed apps; gives what was asked for.
    pub(crate) fn run_deployment_errand(&self, errand: DeploymentErrand) -> Result<Value, Failure> {
        let deployments = self.deployments();
        match errand {
            DeploymentErrand::Find { environment, app } => {
                let found = deployments.find(&environment, &app)?.filter(Deployment::is_deployed);
                let deployment = match found {
                    Some(deployment) => deployment,
                    None => deployments.get(&DeploymentName::new(&environment, &app)?)?,
                };
                Ok(described(&deployment))
            }
            DeploymentErrand::Function { environment, app, version, function } => {
                let deployment = deployments.get(&DeploymentName::new(&environment, &app)?)?;
                let content = Content::read(deployments.content(&deployment, version)?)?;
                let missing = || {
                    let message = format!("the app {} has no function `{function}`", deployment.full_name());
                    Failure::new(ErrorClass::NotFoundError, message)
                };
                content.described(&function).ok_or_else(missing)
            }
            DeploymentErrand::Stop { environment, app } => {
                let deployment = deployments.get(&DeploymentName::new(&environment, &app)?)?;
                deployments.end(&deployment, &self.cancel)?;
                deployments.stop_host(&deployment.full_name())?;
                Ok(Value::Null)
            }
            DeploymentErrand::SetTags { environment, app, tags } => {
                deployments.set_tags(&DeploymentName::new(&environment, &app)?, tags, &self.cancel)?;
                Ok(Value::Null)
            }
        }
    }

    /// Makes a version of an app ready: it has no containers then.
    pub(crate) fn load_version(
        &self,
        deployments: &Deployments,
        deployment: &Deployment,
        number: Option<u32>,
        sink: &Sink,
    ) -> Result<Arc<Running>, Failure> {
        let content = Content::read(deployments.content(deployment, number)?)?;
        let (app, mut grounds) = content.into_parts()?;
        let app = self.resolve(&app, sink)?;
        let mut specs: Vec<ServiceSpec> = Vec::new();
        for function in &app.functions {
            let missing = || {
                let message = format!("what was deployed of `{}` is incomplete: deploy the app again", function.name);
                Failure::new(ErrorClass::ExecutionError, message)
            };
            let ground = grounds.remove(&function.name).ok_or_else(missing)?;
            if !self.store.hold(ground.layers().bottom_up()).map_err(|error| Failure::of_store(&error))? {
                let message = format!(
                    "the files of `{}` are not in the store any more, or damaged: deploy the app {} again",
                    function.name,
                    deployment.full_name()
                );
                return Err(Failure::new(ErrorClass::ExecutionError, message));
            }
            let volumes = volumes::of_containers(&function.volumes, Volumes::new(&self.store))?;
            specs.push(spec(&app, function, &ground, volumes)?);
        }
        Ok(Running::new(self.services(&deployment.id, &app, specs, sink), &app.functions))
    }
}

/// Refuses schedules that make no sense.
pub(crate) fn check_schedules(app: &AppRequest) -> Result<(), Failure> {
    for function in &app.functions {
        if let Some(Err(wrong)) = function.schedule.as_ref().map(Schedule::plan) {
            let message = format!("the schedule of `{}` makes no sense: {wrong}", function.name);
            return Err(Failure::new(ErrorClass::InvalidError, message));
        }
    }
    Ok(())
}

/// When a function of an app runs by itself next, in seconds since 1970, if its process runs; nothing if none does.
#[must_use]
pub fn next_run(deployments: &Deployments, deployment: &Deployment) -> Option<i64> {
    let content = Content::read(deployments.content(deployment, None).ok()?).ok()?;
    let (app, _) = content.into_parts().ok()?;
    let begin = Timestamp::from_second(deployment.versions.last()?.deployed.cast_signed()).ok()?;
    let plans = app.functions.iter().filter_map(|function| function.schedule.as_ref()?.plan().ok());
    plans.filter_map(|plan| plan.next(begin, Timestamp::now(), &TimeZone::system())).min().map(Timestamp::as_second)
}

/// Whether an app is to run without anybody's call: some function of it has a schedule, or containers that are always there.
///
/// # Errors
/// When what is kept of its current version cannot be read.
pub fn runs_by_itself(deployments: &Deployments, deployment: &Deployment) -> Result<bool, AppsError> {
    if !deployment.is_deployed() {
        return Ok(false);
    }
    let content = Content::read(deployments.content(deployment, None)?);
    let parts = content.ok().and_then(|content| content.into_parts().ok());
    Ok(parts.is_some_and(|(app, _)| app.functions.iter().any(stays)))
}

/// Whether a function keeps the process of its app.
fn stays(function: &FunctionRequest) -> bool {
    function.min_containers > 0 || function.schedule.is_some()
}

/// Starts the process of an app that [runs by itself](runs_by_itself), unless it runs.
///
/// # Errors
/// When it does not start, cannot use the app's present version, or `cancel` comes first.
pub fn start_deployed(
    deployments: &Deployments,
    name: &DeploymentName,
    cancel: &CancelToken,
) -> Result<(), EngineError> {
    // As long as this connection is there, a process that has just been started does not end.
    let _connected = deployments.connect(name, cancel)?;
    match take_over(deployments, name, false) {
        Err(EngineError::NotTakenOver(reason)) => Err(EngineError::NotUsable { app: name.clone(), reason }),
        taken_over => taken_over.map(drop),
    }
}

/// An app as programs know it.
fn described(deployment: &Deployment) -> Value {
    json!({
        "app_id": deployment.id,
        "name": deployment.name,
        "environment": deployment.environment,
        "version": deployment.current,
        "created": deployment.created,
        "tags": deployment.tags,
    })
}
