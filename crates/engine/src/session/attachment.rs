//! What a session has to do with an app: from its start, or from attaching to it, to the end.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lamina_events::{CancelGuard, CancelToken};
use lamina_ground::ErrorClass;

use super::{Role, Session, Started};
use crate::host::{Guest, Host};
use crate::protocol::{Answer, AppRequest, AttachRequest, AttachedFunction, Failure};

/// What a session has to do with an app.
#[derive(Default)]
pub(super) enum Attachment {
    /// Nothing.
    #[default]
    None,
    /// It starts one: the images are being built by the start with this number, until the token is cancelled.
    Starting(u64, CancelToken),
    /// It has started the app, which ends with it.
    Owner(Arc<Host>, OwnerGuards),
    /// It is attached to an app that goes on without it. The guard tells the client of its end.
    Guest(Arc<Host>, #[expect(dead_code, reason = "kept for their effects")] (CancelGuard, Guest)),
}

/// What is arranged for the client that has started an app, as long as these are kept.
pub(super) struct OwnerGuards {
    /// Calls are stopped when the user cancels.
    _stop: CancelGuard,
    /// The client is told of an end that it has not asked for.
    told: CancelGuard,
}

impl Attachment {
    pub(super) fn host(&self) -> Option<&Arc<Host>> {
        match self {
            Self::Owner(host, _) | Self::Guest(host, _) => Some(host),
            Self::None | Self::Starting(..) => None,
        }
    }
}

/// A start of an app. One that was stopped may still be ending when the next one runs, so they have numbers.
pub(super) struct Starting {
    number: u64,
    cancel: CancelToken,
    _guard: CancelGuard,
}

impl Session<'_> {
    /// Notes that an app starts, in the order of the messages: a stop that follows finds it.
    pub(super) fn begin(&self) -> Result<Starting, Failure> {
        self.may_build()?;
        let mut state = self.lock();
        if !matches!(*state, Attachment::None) {
            let message = "this connection has an app already: stop it first";
            return Err(Failure::new(ErrorClass::ConflictError, message));
        }
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        let (cancel, guard) = self.child_token();
        *state = Attachment::Starting(number, cancel.clone());
        Ok(Starting { number, cancel, _guard: guard })
    }

    pub(super) fn start(&self, app: &AppRequest, starting: &Starting) {
        let started = self.backend.start(&self.hello, app, &self.sink, &starting.cancel);
        match started.and_then(|started| self.adopt(starting.number, started)) {
            Ok(Started { host, images }) => self.answer(&Answer::Started {
                request: app.request,
                app_id: host.id(),
                images: &images,
                functions: &host.current().functions,
            }),
            Err(failure) => {
                self.abandon(starting.number);
                self.fail(Some(app.request), &failure);
            }
        }
    }

    /// Forgets a start that failed, unless it was stopped before.
    pub(super) fn abandon(&self, number: u64) {
        let mut state = self.lock();
        if matches!(&*state, Attachment::Starting(current, _) if *current == number) {
            *state = Attachment::None;
        }
    }

    /// Makes an app the session's own, unless it was stopped meanwhile.
    pub(super) fn adopt(&self, number: u64, started: Started) -> Result<Started, Failure> {
        let mut state = self.lock();
        match &*state {
            Attachment::Starting(current, building) if *current == number && !building.is_cancelled() => {}
            _ => {
                return Err(Failure::new(ErrorClass::KeyboardInterrupt, "the app was stopped while it started"));
            }
        }
        let host = &started.host;
        let services = Arc::clone(&host.current().services);
        let stop = self.ending.on_cancel(move || services.begin_stop());
        *state = Attachment::Owner(Arc::clone(host), OwnerGuards { _stop: stop, told: self.tell_of_end(host) });
        self.backend.hosts().add(host);
        Ok(started)
    }

    /// Attaches to an app that runs; for one of another process, the client gets a connection with that.
    pub(super) fn attach(&self, attach: &AttachRequest) -> Result<(), Failure> {
        let AttachRequest { request, app, environment, version } = attach;
        if let Some(environment) = environment {
            let (app_id, socket) = self.backend.connect_deployed(environment, app)?;
            self.lead_elsewhere(*request, &app_id, &socket);
            return Ok(());
        }
        if !matches!(*self.lock(), Attachment::None) {
            return Err(Failure::new(
                ErrorClass::ConflictError,
                "this connection has an app already: stop or leave it first",
            ));
        }
        let kept = match self.role {
            Role::Guest(keeper) => keeper.host(app, *version)?,
            Role::Owner => None,
        };
        let Some(host) = kept.map_or_else(|| self.backend.hosts().find(app), |host| Ok(Some(host)))? else {
            let (app_id, socket) = self.backend.connect(app)?;
            self.lead_elsewhere(*request, &app_id, &socket);
            return Ok(());
        };
        let guest = host.admit()?;
        let running = host.current();
        let about = |(name, id): (&'_ String, &'_ String)| AttachedFunction {
            generator: running.generators.contains(name),
            class: running.classes.get(name).cloned(),
            id: id.clone(),
        };
        let functions = running.functions.iter().map(|it| (&**it.0, about(it))).collect();
        self.answer(&Answer::Attached { request: *request, app_id: host.id(), functions, elsewhere: false });
        let told = self.tell_of_end(&host);
        *self.lock() = Attachment::Guest(host, (told, guest));
        Ok(())
    }

    /// Gives the client a connection with the process in which an app runs.
    pub(super) fn lead_elsewhere(&self, request: u64, app_id: &str, socket: &UnixStream) {
        let answer = Answer::Attached { request, app_id, functions: BTreeMap::new(), elsewhere: true };
        // As in `answer`.
        let _ = self.sender.send(&answer.encode(), &[], &[socket.as_fd()]);
    }

    /// Has the client told when the app has ended, as long as the guard is there.
    pub(super) fn tell_of_end(&self, host: &Host) -> CancelGuard {
        let (sender, id) = (self.sender.clone(), host.id().to_owned());
        host.on_end(move || {
            // As in `answer`.
            let _ = sender.send(&Answer::Ended { app_id: &id }.encode(), &[], &[]);
        })
    }

    /// Ends the attachment to an app, which goes on.
    pub(super) fn detach(&self) -> Result<(), Failure> {
        match &*self.lock() {
            Attachment::Guest(..) => {}
            Attachment::Owner(..) | Attachment::Starting(..) => {
                return Err(Failure::new(
                    ErrorClass::ConflictError,
                    "this connection has started the app: stop it instead",
                ));
            }
            Attachment::None => {
                return Err(Failure::new(ErrorClass::NotFoundError, "this connection is attached to no app"));
            }
        }
        self.leave();
        Ok(())
    }

    /// Stops the app, one that is only attached if the client names it; returns when no container is left.
    pub(super) fn stop(&self, app: Option<&str>) -> Result<(), Failure> {
        let attached = match &*self.lock() {
            Attachment::Guest(host, _) => Some(Arc::clone(host)),
            _ => None,
        };
        if let Some(host) = &attached
            && app != Some(host.id())
        {
            let message =
                format!("the app is not this connection's own: name it, `{}`, to stop it all the same", host.id());
            return Err(Failure::new(ErrorClass::ConflictError, message));
        }
        if let (Some(_), Role::Guest(keeper)) = (&attached, self.role) {
            keeper.refuse_stop()?;
        }
        self.leave();
        if let Some(host) = attached {
            host.stop();
        }
        Ok(())
    }

    /// Ends what the session has to do with an app: its own one is stopped, and no container is left then; one that it is
    /// attached to loses the calls that the client waits for.
    pub(super) fn leave(&self) {
        let attachment = std::mem::take(&mut *self.lock());
        match attachment {
            Attachment::None => {}
            Attachment::Starting(_, building) => building.cancel(),
            Attachment::Owner(host, guards) => {
                // It asks for the end itself.
                drop(guards.told);
                host.stop();
            }
            Attachment::Guest(..) => self.calls.cancel_awaited(),
        }
    }
}
