//! Requests for GPUs: what `MODAL_GPU` makes of them, and whether this machine can meet them.

use std::borrow::Cow;

use lamina_devices::{DevicesError, GpuSetting, Inventory, Lender};
use lamina_events::{Event, Sink};
use lamina_ground::{EnvVars, Hint, causes};
use lamina_image::GpuRequest;
use lamina_sandbox::doctor::{Finding, Status};

use crate::protocol::{AppRequest, Failure};

impl From<DevicesError> for Failure {
    fn from(error: DevicesError) -> Self {
        Self { hint: error.hint().map(Cow::into_owned), ..Self::new(error.class(), causes(&error)) }
    }
}

/// The app as it runs on this machine. What its functions ask for is looked for now, and what its steps ask for when it is
/// known which are to be executed, because one that is cached needs no GPU. An app that asks for none costs nothing.
pub(crate) fn for_this_machine<'a>(
    app: Cow<'a, AppRequest>,
    devices: &Lender,
    sink: &Sink,
) -> Result<Cow<'a, AppRequest>, Failure> {
    let asks = app.functions.iter().any(|function| !function.gpu.is_empty())
        || app.images.nodes.iter().any(|node| !node.gpu.is_empty());
    if !asks {
        return Ok(app);
    }
    let setting = GpuSetting::of_environment()?;
    let mut app = app.into_owned();
    let of_steps = app.images.nodes.iter_mut().map(|node| &mut node.gpu);
    let requests = of_steps.chain(app.functions.iter_mut().map(|function| &mut function.gpu));
    requests.for_each(|requests| setting.apply(requests));
    if setting == GpuSetting::Ignore {
        say_that_they_are_ignored(sink);
        return Ok(Cow::Owned(app));
    }
    let mut warnings = Vec::new();
    for function in app.functions.iter().filter(|function| !function.gpu.is_empty()) {
        let checked = devices.check(&function.gpu).map_err(|error| {
            let failure = Failure::from(error);
            Failure { message: format!("function `{}`: {}", function.name, failure.message), ..failure }
        })?;
        warnings.extend(checked.into_iter().filter(|warning| !warnings.contains(warning)).collect::<Vec<_>>());
    }
    for message in warnings {
        sink.emit(Event::Warning { message });
    }
    Ok(Cow::Owned(app))
}

/// The GPUs that a shell gets which asks for some.
pub(crate) fn for_shell(mut requests: Vec<GpuRequest>, sink: &Sink) -> Result<Vec<GpuRequest>, DevicesError> {
    let setting = GpuSetting::of_environment()?;
    setting.apply(&mut requests);
    if setting == GpuSetting::Ignore {
        say_that_they_are_ignored(sink);
    }
    Ok(requests)
}

fn say_that_they_are_ignored(sink: &Sink) {
    let message = format!("everything runs without GPUs, because `{}` is `ignore`", EnvVars::MODAL_GPU);
    sink.emit(Event::Warning { message });
}

/// What `modal doctor` says of GPUs: to have none is no problem.
pub(crate) fn finding(inventory: &Inventory) -> Finding {
    const NAME: &str = "gpus";
    let detail = match inventory.gpus() {
        [] => "There are none for containers.".to_owned(),
        [first, ..] => format!("Containers can have {}, by {}.", inventory.summary(), first.origin),
    };
    if inventory.problems().is_empty() {
        return Finding { name: NAME, status: Status::Ok, detail, hint: None };
    }
    let hint = format!("Mend or remove what is wrong: {}.", inventory.problems().join("; "));
    Finding { name: NAME, status: Status::Warning, detail, hint: Some(hint) }
}
