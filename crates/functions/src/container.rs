//! The life of one container, in a thread of its own: start, conversation with the runner, output, end.

mod asked;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lamina_events::{Event, Stream};
use lamina_ground::random_id;
use lamina_wire::{Frame, Payload, Received, Receiver, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::SealFlags;
use rustix::io::Errno;

use crate::aside;
use crate::error::{CallError, Trouble};
use crate::ids::CallId;
use crate::link::Link;
use crate::options::PoolOptions;
use crate::output::Output;
use crate::pool::{Seat, is_disconnected};
use crate::roster::Backlog;
use crate::runner::{FromRunner, ResultStatus, RunnerResult, ToRunner};
use crate::starter::{ContainerEnd, ContainerProcess, StartError, StartedContainer};
use crate::state::{Deadline, Disposition, EndReason};
use crate::terminal::Interaction;

/// How long a container that closed its socket may take to end before it is killed.
const CLOSED_PATIENCE: Duration = Duration::from_secs(1);
/// How long a killed container may take to be gone.
const KILLED_PATIENCE: Duration = Duration::from_secs(10);
/// Most characters of what is wrong with a message that are shown.
const MOST_SHOWN: usize = 200;
/// How often output is read while waiting for the end, so that a full pipe does not delay it.
const WAIT_STEP: Duration = Duration::from_millis(20);

/// Runs a container from start to end.
pub(crate) fn run(seat: &Seat) {
    let task = random_id("ta");
    let started = seat.starter().start(&task).and_then(|started| Container::new(seat, &task, started));
    match started {
        Ok(container) => container.live(),
        Err(error) => {
            tracing::warn!(container = task, %error, "a container did not start");
            seat.not_started(error);
        }
    }
}

/// What the streams of a container have for its thread.
struct Ready {
    message: bool,
    stdout: bool,
    stderr: bool,
}

impl Ready {
    const EVERYTHING: Self = Self { message: true, stdout: true, stderr: true };
    const NOTHING: Self = Self { message: false, stdout: false, stderr: false };
}

struct Container {
    seat: Seat,
    task: String,
    link: Arc<Link>,
    receiver: Receiver,
    process: Arc<dyn ContainerProcess>,
    /// Whether the state may hold something for the container.
    woken: bool,
    stdout: Output,
    stderr: Output,
    /// How it says which of its inputs prints, if several run at a time.
    mark: Option<String>,
    /// What it has printed last.
    backlog: Arc<Backlog>,
    /// Our end of its terminal, if it has one.
    terminal: Option<Arc<OwnedFd>>,
    /// While it has the user's terminal, or waits for it.
    interaction: Option<Interaction>,
    /// When its time limits are looked at next.
    next_check: Instant,
}

impl Container {
    fn new(seat: &Seat, task: &str, started: StartedContainer) -> Result<Self, StartError> {
        let process = Arc::clone(&started.process);
        let backlog = Arc::default();
        let PoolOptions { capacity, batching, .. } = seat.options();
        // Inputs of a batch run as one, and a user's terminal would show marks.
        let mark = (*capacity > 1 && batching.is_none() && started.terminal.is_none()).then(|| random_id("mk"));
        let output = |fd, stream| Output::new(fd, stream, task, seat, &backlog, mark.as_deref());
        let build = || -> std::io::Result<Self> {
            Ok(Self {
                seat: seat.clone(),
                task: task.to_owned(),
                link: Arc::new(Link::new(task, started.socket.try_clone()?)?),
                receiver: Receiver::new(started.socket),
                process: started.process,
                woken: false,
                stdout: output(started.stdout, Stream::Stdout)?,
                stderr: output(started.stderr, Stream::Stderr)?,
                mark: mark.clone(),
                backlog: Arc::clone(&backlog),
                terminal: started.terminal.map(Arc::new),
                interaction: None,
                next_check: Instant::now(),
            })
        };
        build().map_err(|error| {
            process.kill();
            StartError::engine("its connection cannot be set up")(error)
        })
    }

    fn live(mut self) {
        let (container, function) = (self.task.clone(), self.seat.options().name());
        let listed = self.seat.options().listing.as_ref().map(|listing| {
            let seat = self.seat.clone();
            let stop = move |gracefully| seat.stop(gracefully);
            listing.enter(&container, function.clone(), &self.process, &self.backlog, stop)
        });
        self.seat.sink().emit(Event::ContainerStarted { container, function });
        let wanted = self.seat.connect(&self.link, &self.process);
        let mut is_read_up = wanted;
        if !wanted {
            self.kill(EndReason::Unneeded);
        } else if let Err(reason) = self.converse() {
            self.kill(EndReason::Broken(reason));
            is_read_up = false;
        }
        let end = self.wait();
        self.interaction = None;
        self.stdout.finish();
        self.stderr.finish();
        drop(listed);
        self.backlog.end();
        self.conclude(end);
        aside::close(self.receiver.take_unclaimed());
        let socket = self.link.close();
        if !is_read_up {
            aside::close_connection(self.receiver, socket);
        }
    }

    /// Talks with the runner until it closes the connection; an error when it breaks the protocol.
    fn converse(&mut self) -> Result<(), Trouble> {
        let PoolOptions { module, kind, parameters, capacity, batching, volumes, .. } = self.seat.options();
        let terminal = self.terminal.is_some();
        let start = ToRunner::Start {
            module,
            service: kind,
            parameters,
            capacity: *capacity,
            batches: batching.is_some(),
            terminal,
            keeps: self.seat.services().is_some_and(|services| services.keeps_spawned()),
            volumes,
            mark: self.mark.as_deref(),
        };
        match self.link.tell(&start.encode()) {
            Err(error) if !is_disconnected(&error) => {
                return Err(Trouble::wire("it could not be told to start")(error));
            }
            _ => {}
        }
        loop {
            if self.link.is_flooded() {
                return Err("it does not read the answers to its calls".into());
            }
            let held = self.link.is_overloaded() || self.seat.is_far_ahead();
            let has_buffered = !held && self.receiver.has_buffered();
            let ready = if has_buffered { Ready::EVERYTHING } else { self.poll(held)? };
            // The runner flushes before it sends a result, so what belongs before the result is in the pipes now.
            if ready.stdout {
                self.stdout.read_available();
            }
            if ready.stderr {
                self.stderr.read_available();
            }
            if ready.message {
                // Whoever sends a frame byte by byte gets no more time than others: none of it is waited for here.
                match self.receiver.receive_available() {
                    Ok(Received::Frame(frame)) => self.handle(frame)?,
                    Ok(Received::Incomplete) => {}
                    // A process that dies while it sends tears its last frame.
                    Ok(Received::Closed) | Err(WireError::Truncated) => return Ok(()),
                    Err(error) => return Err(Trouble::wire("it cannot be heard")(error)),
                }
            }
            if Instant::now() >= self.next_check {
                self.check_time();
            }
        }
    }

    /// Waits until something is to be read or due; says what is. While `held`, only the end of the connection counts as
    /// a message.
    fn poll(&mut self, held: bool) -> Result<Ready, Trouble> {
        let due = [Some(self.next_check), self.stdout.flush_at(), self.stderr.flush_at()];
        let left = due.into_iter().flatten().min().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut interest = if held { PollFlags::empty() } else { PollFlags::IN };
        interest.set(PollFlags::OUT, self.woken || self.link.has_kept());
        let mut fds = Vec::with_capacity(4);
        // First: the kernel looks at them in this order, so a message that it sees has its output in the pipes that it
        // looks at next.
        fds.push(PollFd::new(&self.receiver, interest));
        fds.push(PollFd::from_borrowed_fd(self.link.wake(), PollFlags::IN));
        let outputs = [self.stdout.fd(), self.stderr.fd()];
        fds.extend(outputs.into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::NOTHING),
            Err(errno) => return Err(Trouble::engine("its streams cannot be polled")(errno)),
        }
        let (socket, woken) = (fds[0].revents(), !fds[1].revents().is_empty());
        let mut polled = fds[2..].iter().map(|fd| !fd.revents().is_empty());
        let [stdout, stderr] = outputs.map(|output| output.is_some() && polled.next() == Some(true));
        if socket.contains(PollFlags::OUT) && self.link.flush() {
            self.tell_consumed();
        }
        if woken {
            // Whether there is something is seen in the state; the number does not matter.
            let _ = rustix::io::read(self.link.wake(), &mut [0; 8]);
            self.woken = true;
            // An input may have been cancelled, or the container told to leave.
            self.next_check = Instant::now();
        }
        let message = !(socket - PollFlags::OUT).is_empty();
        Ok(Ready { message, stdout: stdout || self.stdout.is_due(), stderr: stderr || self.stderr.is_due() })
    }

    /// Tells the runner how many items of its generator were consumed. Only when its socket has room: a runner that
    /// does not read now must not keep its items from being read.
    fn tell_consumed(&mut self) {
        self.woken = false;
        if let Some((call, count)) = self.seat.take_consumed() {
            // One that is gone is noticed by the reading side.
            let _ = self.link.tell(&ToRunner::More { call: call.number(), count }.encode());
            // There may be more of them.
            self.woken = true;
        }
    }

    fn handle(&mut self, frame: Frame) -> Result<(), Trouble> {
        let message = FromRunner::decode(&frame.control);
        let frame = accept(frame)?;
        let message = message.map_err(|error| {
            let shown: String = error.to_string().chars().take(MOST_SHOWN).collect();
            // Parts of it may be what code in the container wrote, and are shown as the engine's own words.
            format!("it sent a message that the engine does not know: {}", shown.escape_debug())
        })?;
        if matches!(message, FromRunner::Ready | FromRunner::Failed | FromRunner::Result(_)) {
            // What the user was shown belongs before what follows from it.
            self.interaction = None;
        }
        match message {
            FromRunner::Interact => self.interact(),
            FromRunner::Ready if self.seat.ready() => Ok(()),
            FromRunner::Ready => Err("it was ready twice".into()),
            FromRunner::Failed if !self.seat.is_starting() => Err("its import failed after it was ready".into()),
            FromRunner::Failed => {
                let told = self.seat.import_failed(&frame.payload);
                told.map_err(Trouble::wire("why its module cannot be imported could not be passed on"))
            }
            FromRunner::Item { call } => {
                let passed_on = self.seat.item(CallId::from_number(call), frame.payload);
                let passed_on =
                    passed_on.map_err(|_| format!("it sent an item of call `{call}`, which it was not given"))?;
                passed_on.map_err(Trouble::wire("its item could not be handed over"))
            }
            FromRunner::Result(RunnerResult { call, status }) => Ok(self.finish(call, status, frame.payload)?),
            FromRunner::Call(request) => Ok(self.call(request, frame.payload)?),
            FromRunner::Variant(variant) if variant.app.is_some() => {
                self.link.calls.note_variant(variant);
                Ok(())
            }
            FromRunner::Functions { call, app } => {
                self.tell_of_functions(call, &app);
                Ok(())
            }
            FromRunner::Variant(variant) => {
                if let Some(services) = self.seat.services() {
                    services.name_variant(&self.link.calls, &variant);
                }
                Ok(())
            }
            FromRunner::More { call, count } => {
                self.link.calls.more(call, count);
                Ok(())
            }
            FromRunner::Await { call, id } => Ok(self.await_kept(call, &id)?),
            FromRunner::Inputs { call, id } => {
                self.tell_of_inputs(call, &id);
                Ok(())
            }
            FromRunner::Graph { call, id } => {
                self.tell_of_graph(call, &id);
                Ok(())
            }
            FromRunner::Pool { call, app, question } => {
                self.tell_of_pool(call, app.as_ref(), question);
                Ok(())
            }
            FromRunner::Cancel { call, terminate } => {
                self.link.calls.cancel(call, terminate);
                self.link.errands.cancel(call);
                Ok(())
            }
            FromRunner::Collection { call, errand } => {
                self.errand(call, errand, frame.payload);
                Ok(())
            }
        }
    }

    /// An input has ended.
    fn finish(&mut self, number: u64, status: ResultStatus, payload: Payload) -> Result<(), String> {
        let call = CallId::from_number(number);
        // What it has printed is not joined with what the next one prints.
        self.stdout.flush();
        self.stderr.flush();
        if status != ResultStatus::Ok {
            tracing::info!(container = self.task, call = number, ?status, "call");
            self.link.calls.cancel_awaited_by(call);
        }
        let finished = self.seat.finish(call, status, payload);
        finished.map_err(|_| format!("it sent a result of call `{number}`, which it was not given"))
    }

    /// Brings the user's terminal into the container.
    fn interact(&mut self) -> Result<(), Trouble> {
        let (Some(terminal), Some(inner)) = (&self.seat.options().terminal, &self.terminal) else {
            return Err("it asked for a terminal that it was not offered".into());
        };
        if self.interaction.as_ref().is_some_and(|interaction| !interaction.is_over()) {
            return Ok(());
        }
        if !self.seat.interact(terminal.has_user()) {
            return Err("it asked for a terminal although it had nothing to do".into());
        }
        // What was written to the streams belongs before what the user sees now.
        self.stdout.flush();
        self.stderr.flush();
        let (seat, process) = (self.seat.clone(), Arc::clone(&self.process));
        let failed = move |error| {
            seat.end(EndReason::Broken(Trouble::engine("the user's terminal failed")(error)));
            process.kill();
        };
        let interaction = Interaction::start(Arc::clone(terminal), Arc::clone(inner), failed);
        self.interaction = Some(interaction.map_err(Trouble::engine("it cannot be given a terminal"))?);
        Ok(())
    }

    fn check_time(&mut self) {
        let wait = match self.seat.due() {
            Deadline::Later(wait) => wait,
            Deadline::Leave => {
                let _ = self.link.tell(&ToRunner::Stop.encode());
                self.seat.options().grace
            }
            Deadline::End(late) => {
                self.end_inputs(late);
                Duration::ZERO
            }
            Deadline::Kill => {
                self.process.kill();
                KILLED_PATIENCE
            }
        };
        self.next_check = Instant::now() + wait;
    }

    /// Has the runner end inputs whose time is up.
    fn end_inputs(&self, late: Vec<(CallId, Disposition)>) {
        let options = self.seat.options();
        let error = CallError::TimedOut { function: options.name(), seconds: options.timeout.as_secs_f64() };
        let mut dispositions = Vec::new();
        for (call, disposition) in late {
            self.link.calls.cancel_awaited_by(call);
            // One that is gone is noticed by the reading side.
            let _ = self.link.tell(&ToRunner::Cancel { call: call.number() }.encode());
            dispositions.push(disposition);
        }
        self.process.nudge();
        let (container, cause) = (Some(self.task.clone()), error.to_string());
        self.seat.sink().emit(Event::CallFailed { function: options.name(), container, cause });
        self.seat.conclude_inputs(dispositions, &error);
    }

    fn kill(&self, reason: EndReason) {
        self.seat.end(reason);
        self.process.kill();
    }

    /// Waits until its processes are gone.
    fn wait(&mut self) -> ContainerEnd {
        if let Some(end) = self.wait_reading(CLOSED_PATIENCE) {
            return end;
        }
        self.kill(EndReason::Broken("it closed its connection to the engine".into()));
        let lost = || ContainerEnd::Lost("its processes do not end although they were killed".to_owned());
        self.wait_reading(KILLED_PATIENCE).unwrap_or_else(lost)
    }

    fn wait_reading(&mut self, patience: Duration) -> Option<ContainerEnd> {
        let until = Instant::now() + patience;
        loop {
            let end = self.process.wait(WAIT_STEP);
            if end.is_some() || Instant::now() >= until {
                return end;
            }
            self.stdout.read_available();
            self.stderr.read_available();
        }
    }

    /// Answers those who waited for this container.
    fn conclude(&self, end: ContainerEnd) {
        self.link.calls.cancel_awaited();
        self.link.errands.cancel_all();
        let was_starting = self.seat.is_starting();
        let left = self.seat.leave();
        let unexpected = left.end.is_none() || !left.dispositions.is_empty();
        let error = self.cause(left.end.as_ref(), end, was_starting);
        let cause = if unexpected { error.to_string() } else { String::new() };
        let (container, function) = (self.task.clone(), self.seat.options().name());
        self.seat.sink().emit(Event::ContainerFinished { container, function, cause });
        self.seat.conclude(left, &error);
    }

    /// What its end means to an input that ran in it.
    fn cause(&self, why: Option<&EndReason>, end: ContainerEnd, was_starting: bool) -> CallError {
        let options = self.seat.options();
        let (function, tail) = (options.name(), self.stderr.tail());
        let reason = match (why, end) {
            (Some(EndReason::TimedOut), _) => {
                return CallError::TimedOut { function, seconds: options.timeout.as_secs_f64() };
            }
            (Some(EndReason::StartTimedOut), _) => {
                return CallError::StartTimedOut { function, seconds: options.startup.as_secs_f64(), tail };
            }
            (Some(EndReason::Unneeded), _) => return CallError::Stopped { function },
            (Some(EndReason::Withdrawn), _) => return CallError::Withdrawn { function },
            (Some(EndReason::Cancelled), _) => return CallError::Cancelled { function },
            (Some(EndReason::NotSent(error)), _) => {
                return CallError::NotSent { function, source: Arc::clone(error) };
            }
            (Some(EndReason::Broken(Trouble::Engine { what, error })), _) => {
                return CallError::Engine { function, what, error: Arc::clone(error) };
            }
            (Some(EndReason::Broken(Trouble::Breach(reason))), _) => reason.clone(),
            (_, ContainerEnd::Lost(reason)) => reason,
            (_, ContainerEnd::OutOfMemory) => {
                return CallError::OutOfMemory { function, limit: options.memory_limit, tail };
            }
            (_, ContainerEnd::OutOfDisk(shortage)) => return CallError::OutOfDisk { function, shortage },
            (_, ContainerEnd::Exited(code)) if was_starting && !options.entrypoint.is_empty() => {
                return CallError::Entrypoint { function, entrypoint: options.entrypoint.clone(), code, tail };
            }
            (_, ContainerEnd::Exited(code)) => return CallError::Exited { function, code, tail },
            (_, ContainerEnd::Signaled(signal)) => return CallError::Signaled { function, signal, tail },
        };
        CallError::Broken { function, reason, tail }
    }
}

/// Refuses descriptors that could change or block under whoever reads or closes them: code in the container chose them.
fn accept(mut frame: Frame) -> Result<Frame, String> {
    let reason = if frame.fds.is_empty() {
        let Err(reason) = check_payload(&frame.payload) else { return Ok(frame) };
        reason
    } else {
        "it sent file descriptors".to_owned()
    };
    aside::close(std::mem::take(&mut frame.fds));
    aside::close_payload(frame.payload);
    Err(reason)
}

/// Refuses a descriptor that could change or block under whoever reads it, or that claims more than it holds: code in the
/// container chose it.
fn check_payload(payload: &Payload) -> Result<(), String> {
    let Payload::Memory(fd, length) = payload else {
        return Ok(());
    };
    let wanted = SealFlags::WRITE | SealFlags::SHRINK;
    let sealed = rustix::fs::fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(wanted));
    let held = rustix::fs::fstat(fd).map_or(0, |stat| {
        // Holes take no memory from the container, but from whoever reads them.
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        u64::try_from(stat.st_size).unwrap_or(0).min(blocks)
    });
    if sealed && held >= *length { Ok(()) } else { Err("it sent a large value that is no sealed memory".to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use lamina_wire::write_memory;
    use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};

    use super::*;

    #[test]
    fn no_size_is_believed_that_the_container_has_no_memory_for() {
        let honest = Payload::Memory(write_memory(&vec![0; 3 << 20]).unwrap(), 3 << 20);
        assert_eq!(check_payload(&honest), Ok(()));
        let file = File::from(memfd_create("sparse", MemfdFlags::ALLOW_SEALING).unwrap());
        file.set_len(1 << 40).unwrap();
        let sparse = OwnedFd::from(file);
        fcntl_add_seals(&sparse, SealFlags::WRITE | SealFlags::SHRINK).unwrap();
        assert!(check_payload(&Payload::Memory(sparse, 1 << 40)).is_err());
    }
}
