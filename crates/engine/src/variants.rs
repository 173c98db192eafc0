//! Variants of services: classes with parameters, and services that are called with other options.

use std::collections::BTreeMap;
use std::sync::Arc;

use lamina_devices::Lender;
use lamina_events::Sink;
use lamina_functions::{
    CallStatus, ContainerStarter, Listing, MakeVariant, Parameter, PoolOptions, SandboxStarter, ServiceSpec, Terminal,
    VariantRequest,
};
use lamina_ground::ErrorClass;
use lamina_image::{GpuRequest, SecretValues, VolumeMount};
use lamina_sandbox::Launcher;
use lamina_secrets::NamedSecrets;
use lamina_store::Store;
use lamina_volumes::Volumes;
use serde::Deserialize;
use serde_json::Value;

use crate::app::{container_of, limits_of};
use crate::protocol::{
    Amount, AppName, AppRequest, BatchingRequest, ConcurrencyRequest, Failure, FunctionRequest, RetriesRequest,
};
use crate::{gpus, secrets, volumes};

/// Makes the containers of services.
#[derive(Clone)]
pub(crate) struct Starters {
    pub(crate) launcher: Launcher,
    pub(crate) devices: Arc<Lender>,
    pub(crate) store: Store,
    pub(crate) terminal: Option<Arc<dyn Terminal>>,
    pub(crate) listing: Listing,
}

impl Starters {
    /// The options of a service's pool, and what starts its containers.
    pub(crate) fn of(&self, spec: ServiceSpec) -> (PoolOptions, Box<dyn ContainerStarter>) {
        let options =
            PoolOptions { terminal: self.terminal.clone(), listing: Some(self.listing.clone()), ..spec.pool_options() };
        let starter = SandboxStarter::new(
            self.launcher.clone(),
            Arc::clone(&self.devices),
            self.store.clone(),
            spec.container,
            self.terminal.clone(),
        );
        (options, Box::new(starter))
    }
}

/// What variants of an app's services are made of: the services as they were declared, and what these name.
pub(crate) struct Declared {
    pub(crate) starters: Starters,
    pub(crate) named_secrets: NamedSecrets,
    pub(crate) sink: Sink,
    pub(crate) app: AppName,
    pub(crate) services: Vec<(FunctionRequest, ServiceSpec)>,
}

impl Declared {
    pub(crate) fn into_make_variant(self) -> MakeVariant {
        Box::new(move |request| self.variant(request).map_err(CallStatus::from))
    }

    fn variant(&self, request: &VariantRequest) -> Result<(PoolOptions, Box<dyn ContainerStarter>), Failure> {
        let VariantRequest { function: name, parameters, options, .. } = request;
        let Some((function, spec)) = self.services.iter().find(|(function, _)| function.name == *name) else {
            let message = format!("the app has no function `{name}`");
            return Err(Failure::new(ErrorClass::NotFoundError, message));
        };
        if function.class.is_none() && !parameters.is_empty() {
            let message = format!("`{name}` is a function, which has no parameters of a class");
            return Err(Failure::new(ErrorClass::InvalidError, message));
        }
        let options: Options = serde_json::from_value(Value::Object(options.clone())).map_err(|error| {
            Failure::new(ErrorClass::InvalidError, format!("the options of `{name}` cannot be read: {error}"))
        })?;
        let spec = self.with_options(function, spec, options, parameters)?;
        Ok(self.starters.of(spec))
    }

    /// The service as it is with these options and parameters.
    fn with_options(
        &self,
        function: &FunctionRequest,
        spec: &ServiceSpec,
        options: Options,
        parameters: &[Parameter],
    ) -> Result<ServiceSpec, Failure> {
        let changed = AppRequest {
            app: self.app.clone(),
            functions: vec![options.applied_to(function)],
            ..AppRequest::default()
        };
        let store = &self.starters.store;
        let changed = secrets::with_values(&changed, &self.named_secrets)?;
        let changed = volumes::with_ids(changed, Volumes::new(store))?;
        let changed = gpus::for_this_machine(changed, &self.starters.devices, &self.sink)?;
        let function = &changed.functions[0];
        let volumes = volumes::of_containers(&function.volumes, Volumes::new(store))?;
        Ok(ServiceSpec {
            container: container_of(function, volumes, spec.container.clone()),
            parameters: parameters.to_vec(),
            ..limits_of(function, spec.clone())?
        })
    }
}

impl From<Failure> for CallStatus {
    fn from(Failure { error, message, hint, .. }: Failure) -> Self {
        Self::Error { error, message, hint }
    }
}

impl From<CallStatus> for Failure {
    fn from(status: CallStatus) -> Self {
        match status {
            CallStatus::Error { error, message, hint } => Self { hint, ..Self::new(error, message) },
            CallStatus::Ok | CallStatus::Exception => Self::new(ErrorClass::ExecutionError, "there is no such service"),
        }
    }
}

/// What a variant has otherwise than its service.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    environment: Option<BTreeMap<String, String>>,
    secrets: Option<Vec<SecretValues>>,
    volumes: Option<Vec<VolumeMount>>,
    timeout: Option<f64>,
    cpu: Option<Amount>,
    memory: Option<Amount>,
    gpu: Option<Vec<GpuRequest>>,
    retries: Option<RetriesRequest>,
    max_containers: Option<u32>,
    buffer_containers: Option<u32>,
    scaledown_window: Option<u32>,
    concurrency: Option<ConcurrencyRequest>,
    batching: Option<BatchingRequest>,
}

impl Options {
    fn applied_to(self, function: &FunctionRequest) -> FunctionRequest {
        let function = function.clone();
        FunctionRequest {
            environment: self.environment.unwrap_or(function.environment),
            secrets: self.secrets.unwrap_or(function.secrets),
            volumes: self.volumes.unwrap_or(function.volumes),
            timeout: self.timeout.unwrap_or(function.timeout),
            cpu: self.cpu.or(function.cpu),
            memory: self.memory.or(function.memory),
            gpu: self.gpu.unwrap_or(function.gpu),
            retries: self.retries.or(function.retries),
            // What is to be there without inputs is the service itself, not every variant of it.
            min_containers: 0,
            max_containers: self.max_containers.or(function.max_containers),
            buffer_containers: self.buffer_containers.unwrap_or(function.buffer_containers),
            scaledown_window: self.scaledown_window.or(function.scaledown_window),
            concurrency: self.concurrency.or(function.concurrency),
            batching: self.batching.or(function.batching),
            ..function
        }
    }
}
