//! Receiving requests and answering them.

use std::any::Any;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::Instant;

use lamina_wire::{Frame, Receiver, Sender};
use serde::Serialize;

use super::disk::{self, Result};
use super::removal::remove_all;
use super::{JobTable, WorkerContext, caches, collect, commit, ingest, packages, repair, verify, view};
use crate::JobError;
use crate::protocol::{Answer, Envelope, Request};

/// Serves requests until the engine closes its end, and finishes what would leave the store untidy. Jobs, checks and commits
/// are not finished: nobody will use what they make, and unpacking a large package takes a while. `gone` is called before
/// what is left to do then.
pub fn worker_main(socket: UnixStream, content: &Path, jobs: JobTable, gone: fn()) {
    let Ok(sending) = socket.try_clone() else { return };
    let sender = Sender::new(sending);
    let mut receiver = Receiver::new(socket);
    let Some((context, id)) = start(&mut receiver, &sender, content) else {
        return;
    };
    answer(&sender, id, value(context.placing));
    let worker = Arc::new(Worker { context, sender, jobs });
    let (unfinished, finished) = mpsc::channel::<Infallible>();
    // Whatever ends the connection, the engine is gone or confused.
    let slots = Slots::default();
    while let Some(frame) = next(&mut receiver) {
        let (serving, unfinished, slot) = (Arc::clone(&worker), unfinished.clone(), slots.take());
        let thread = std::thread::Builder::new().spawn(move || {
            serving.serve(frame, unfinished);
            drop(slot);
        });
        if let Err(error) = thread {
            tracing::warn!(%error, "a request cannot have a thread");
            // The request is lost, so nobody may go on waiting for its answer.
            worker.sender.shutdown();
        }
    }
    gone();
    worker.context.abandon_works();
    drop(unfinished);
    // Ends when the last request has let go of its sender.
    let _ = finished.recv();
    if let Some(temporary) = worker.context.temporary_path().parent() {
        // Jobs may still write there, and do so in vain once it is gone. If it never is, the next process that opens the
        // store sweeps.
        let _ = (0..MOST_REMOVALS).find(|_| remove_all(temporary).is_ok());
    }
}

/// The next request, until the engine closes its end.
fn next(receiver: &mut Receiver) -> Option<Frame> {
    receiver.receive().unwrap_or_else(|error| {
        tracing::warn!(%error, "the engine cannot be heard");
        None
    })
}

/// How often a directory is removed that is written to meanwhile.
const MOST_REMOVALS: usize = 32;

/// How many requests are served at once, each in a thread: those beyond wait in the socket. No request waits for one that
/// is sent after it.
const MOST_REQUESTS: usize = 128;

/// The requests that are being served.
#[derive(Debug, Default, Clone)]
struct Slots(Arc<(Mutex<usize>, Condvar)>);

/// One of them, until dropped.
struct Slot(Slots);

impl Slots {
    /// Waits until there is one.
    fn take(&self) -> Slot {
        let (taken, freed) = &*self.0;
        let taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken =
            freed.wait_while(taken, |taken| *taken >= MOST_REQUESTS).unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
        Slot(self.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let (taken, freed) = &*self.0.0;
        *taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        freed.notify_one();
    }
}

/// The first request.
fn start(receiver: &mut Receiver, sender: &Sender, content: &Path) -> Option<(WorkerContext, u64)> {
    let frame = receiver.receive().ok().flatten()?;
    let Envelope { id, body } = serde_json::from_slice(&frame.control).ok()?;
    let started = match body {
        Request::Start { session, leftovers } => WorkerContext::new(content, &session, frame.fds).inspect(|context| {
            for name in leftovers {
                // What cannot be removed stays in nobody's way, and the next start tries again.
                let _ = remove_all(&context.work(&name));
            }
        }),
        _ => Err(JobError::new(JobError::STORE, "the first request has to start the session")),
    };
    match started {
        Ok(context) => Some((context, id)),
        Err(error) => {
            answer(sender, id, Err(error));
            None
        }
    }
}

/// What every request needs.
struct Worker {
    context: WorkerContext,
    sender: Sender,
    jobs: JobTable,
}

impl Worker {
    /// Serves a request; `unfinished` is let go of when the worker need not wait for it any longer.
    fn serve(&self, frame: Frame, unfinished: mpsc::Sender<Infallible>) {
        let Ok(Envelope { id, body }) = serde_json::from_slice::<Envelope<Request>>(&frame.control) else {
            // An engine of another version; without a number there is nobody to tell.
            self.sender.shutdown();
            return;
        };
        let is_finished = !matches!(
            body,
            Request::Job { .. } | Request::Check { .. } | Request::CheckObjects { .. } | Request::CheckPackages
        );
        let unfinished = Some(unfinished).filter(|_| is_finished);
        let begun = Instant::now();
        let is_job = matches!(body, Request::Job { .. });
        let name = (is_job || tracing::enabled!(tracing::Level::DEBUG)).then(|| name(&body));
        let handled = catch_unwind(AssertUnwindSafe(|| self.handle(body, frame)));
        let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
        if is_job {
            tracing::info!(name, milliseconds, "job");
        } else {
            tracing::debug!(request = name, milliseconds, "request");
        }
        let answered = handled.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
        if let Err(error) = &answered {
            tracing::warn!(name, %error, "a request failed");
        }
        answer(&self.sender, id, answered);
        drop(unfinished);
    }

    fn handle(&self, request: Request, frame: Frame) -> Answer {
        let context = &self.context;
        match request {
            Request::Start { .. } => Err(JobError::new(JobError::STORE, "the session is started already")),
            Request::Job { name, job } => self.jobs.run(&name, job, context, frame.fds),
            Request::NewWork { id } => value(new_work(context, &id)?),
            Request::NewCacheUpper { id, cache } => value(caches::new_upper(context, &id, &cache)?),
            Request::Discard { id } => value(context.discard(&id)?),
            Request::Commit { id, rules } => value(commit::commit(context, &id, &rules)?),
            Request::Cache { cache } => value(context.cache(&cache).map(drop)?),
            Request::BeginCache { cache, layer } => value(caches::begin(context, &cache, layer.as_ref())?),
            Request::Harvest { id, cache, filter } => value(caches::harvest(context, &id, &cache, &filter)?),
            Request::Ingest => value(ingest::ingest(context, files(frame.fds))?),
            Request::Publish => value(view::publish(context, &payload(frame)?)?),
            Request::MakeView { digest } => value(view::restore(context, &digest)?),
            Request::Look { digest } => value(view::looks_right(context, &digest)?),
            Request::Verify { digest } => value(verify::verify(context, &digest, &AtomicBool::new(false))?),
            Request::Check { digest } => value(verify::check(context, &digest)?),
            Request::CheckObjects { digit } => value(verify::check_objects(context, digit)?),
            Request::Salvage { digest } => value(repair::salvage(context, &digest)?),
            Request::Repair { digest } => value(repair::repair(context, &digest)?),
            Request::SetAside { digit } => value(repair::set_objects_aside(context, digit)?),
            Request::CheckPackages => value(packages::check(context, &self.jobs.packages(context)?)?),
            Request::SetPackagesAside => value(packages::set_damaged_aside(context, &self.jobs.packages(context)?)?),
            Request::Measure => value(collect::measure(context)?),
            Request::Retire { keep } => value(collect::retire(context, &keep)?),
            Request::RemoveRetired { retired } => value(collect::remove(context, &retired)?),
            Request::Sweep(sweep) => value(collect::sweep(context, &self.jobs.packages(context)?, &sweep)?),
            Request::RemoveFormer => value(remove_former(context)?),
            Request::Remove => value(remove_content(context.content())?),
        }
    }
}

/// What a request is called in records; what it holds may be secret.
fn name(request: &Request) -> String {
    match request {
        Request::Job { name, .. } => name.clone(),
        other => {
            let text = format!("{other:?}");
            text.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default().to_owned()
        }
    }
}

fn answer(sender: &Sender, id: u64, body: Answer) {
    // An engine that is gone needs no answer.
    if let Ok(control) = serde_json::to_vec(&Envelope { id, body }) {
        let _ = sender.send(&control, &[], &[]);
    }
}

fn value(output: impl Serialize) -> Answer {
    serde_json::to_value(output).map_err(|error| JobError::new(JobError::STORE, error.to_string()))
}

fn files(fds: Vec<OwnedFd>) -> Vec<std::fs::File> {
    fds.into_iter().map(std::fs::File::from).collect()
}

fn payload(frame: Frame) -> Result<Vec<u8>> {
    frame.payload.into_bytes().map_err(|error| JobError::new(JobError::STORE, error.to_string()))
}

fn new_work(context: &WorkerContext, id: &str) -> Result<()> {
    disk::make_directory_apart(&context.work(id), 0o755)?;
    disk::make_directory(&context.upper(id), 0o755)?;
    disk::make_directory(&context.work(id).join("work"), 0o755)
}

/// Removes what is below the content directory, which itself belongs to the engine.
fn remove_content(content: &Path) -> Result<()> {
    for (name, _) in disk::list(content)? {
        remove_all(&disk::join(content, &name))?;
    }
    Ok(())
}

/// Removes what earlier formats kept in another way: everything but caches.
fn remove_former(context: &WorkerContext) -> Result<()> {
    for directory in ["trees", "outlines", "views", "whiteouts", "copies", "objects", "wheels", "conda"] {
        remove_all(&context.content().join(directory))?;
    }
    context.prepare()
}

/// A panic as an error: the engine must not wait for an answer that never comes.
fn panicked(panic: &(dyn Any + Send)) -> JobError {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    JobError::new(JobError::STORE, format!("the store worker hit a fault in itself: {message}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_requests_are_served_at_once() {
        let (slots, serving, most) = (Slots::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 * MOST_REQUESTS {
                let slot = slots.take();
                let (serving, most) = (&serving, &most);
                scope.spawn(move || {
                    most.fetch_max(serving.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    serving.fetch_sub(1, Ordering::SeqCst);
                    drop(slot);
                });
            }
        });
        assert!((1..=MOST_REQUESTS).contains(&most.into_inner()));
    }

    #[test]
    fn the_last_slot_is_waited_for() {
        let slots = Slots::default();
        let mut taken: Vec<Slot> = (0..MOST_REQUESTS).map(|_| slots.take()).collect();
        let (sender, receiver) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let slot = slots.take();
            sender.send(()).unwrap();
            drop(slot);
        });
        assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(taken.pop());
        receiver.recv().unwrap();
        waiting.join().unwrap();
    }
}
