//! Containers that ask for the user's terminal.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use lamina_sandbox::TerminalSize;
use rustix::event::{PollFd, PollFlags, poll};

use super::eventually;
use super::fake::{Bench, Start, error, outcome, value};
use crate::*;

/// A user who says `ok` to whoever asks, once allowed to.
#[derive(Debug, Default)]
struct User {
    turn: Mutex<()>,
    shown: Mutex<String>,
    may_answer: Mutex<bool>,
    allowed: Condvar,
    fails: bool,
}

impl User {
    fn answering() -> Arc<Self> {
        Arc::new(Self { may_answer: Mutex::new(true), ..Self::default() })
    }

    fn allow(&self) {
        *self.may_answer.lock().unwrap() = true;
        self.allowed.notify_all();
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }
}

impl Terminal for User {
    fn size(&self) -> TerminalSize {
        TerminalSize { rows: 24, columns: 80 }
    }

    fn has_user(&self) -> bool {
        true
    }

    fn connect(&self, inner: &OwnedFd, finished: &OwnedFd) -> io::Result<()> {
        if self.fails {
            return Err(io::Error::other("it is on fire"));
        }
        let _turn = self.turn.lock().unwrap();
        let mut inner = UnixStream::from(inner.try_clone()?);
        let mut buffer = [0; 100];
        let length = inner.read(&mut buffer)?;
        self.shown.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
        drop(self.allowed.wait_while(self.may_answer.lock().unwrap(), |may_answer| !*may_answer).unwrap());
        inner.write_all(b"ok")?;
        poll(&mut [PollFd::new(finished, PollFlags::IN)], None)?;
        self.shown.lock().unwrap().push('.');
        Ok(())
    }
}

fn with(user: &Arc<User>) -> impl FnOnce(&mut PoolOptions) {
    let user = Arc::clone(user);
    move |options| options.terminal = Some(user)
}

#[test]
fn an_input_has_the_users_terminal_until_it_ends() {
    let user = User::answering();
    let bench = Bench::new(Start::Ready, with(&user));
    assert_eq!(value(bench.run(1, "interact hello")), "ok");
    assert_eq!(user.shown(), "hello.", "it was given back before the result was told");
    assert_eq!(value(bench.run(2, "echo next")), "next");
    assert_eq!(value(bench.run(3, "interact again")), "ok");
    assert_eq!(user.shown(), "hello.again.");
}

#[test]
fn containers_take_turns() {
    let user = Arc::new(User::default());
    let bench = Bench::new(Start::Ready, with(&user));
    let inputs = [bench.submit(1, "interact a"), bench.submit(2, "interact b")];
    eventually("one has it", || !user.shown().is_empty());
    assert_eq!(user.shown().len(), 1, "the other waits");
    user.allow();
    for input in &inputs {
        assert_eq!(value(outcome(input)), "ok");
    }
    assert!(["a.b.", "b.a."].contains(&&*user.shown()), "{}", user.shown());
}

#[test]
fn the_users_time_does_not_count() {
    let user = Arc::new(User::default());
    let bench = Bench::new(Start::Ready, |options| {
        with(&user)(options);
        options.timeout = Duration::from_millis(200);
    });
    let input = bench.submit(1, "interact hello");
    eventually("the user is there", || !user.shown().is_empty());
    std::thread::sleep(Duration::from_millis(500));
    user.allow();
    assert_eq!(value(outcome(&input)), "ok");
    assert!(matches!(error(bench.run(2, "hang")), CallError::TimedOut { .. }), "afterwards it counts again");
}

#[test]
fn an_input_that_the_user_interrupts_is_not_run_again() {
    let bench = Bench::new(Start::Ready, |options| {
        options.retries = Retries { maximum: 3, ..Retries::default() };
    });
    match bench.run(1, "interrupted") {
        Outcome::Exception(payload) => assert_eq!(payload.into_bytes().unwrap(), b"KeyboardInterrupt"),
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.fake.attempts.load(Ordering::SeqCst), 1);
}

#[test]
fn a_container_without_an_input_does_not_get_it() {
    let user = User::answering();
    let bench = Bench::new(Start::Ready, with(&user));
    assert_eq!(value(bench.run(1, "late")), "");
    eventually("it is killed", || bench.alive() == 0);
    assert_eq!(user.shown(), "");
}

#[test]
fn a_terminal_that_fails_or_was_not_offered_ends_the_container() {
    let user = Arc::new(User { fails: true, ..User::default() });
    let bench = Bench::new(Start::Ready, with(&user));
    let failed = error(bench.run(1, "interact hello")).to_string();
    assert!(failed.contains("the user's terminal failed: it is on fire"), "{failed}");

    let bench = Bench::new(Start::Ready, |_| ());
    let failed = error(bench.run(1, "interact hello")).to_string();
    assert!(failed.contains("it asked for a terminal that it was not offered"), "{failed}");
    eventually("it is killed", || bench.alive() == 0);
}
