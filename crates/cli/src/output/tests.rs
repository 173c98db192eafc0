//! What the renderers write for one build that has everything: cached, waiting, running, finished and failed steps.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lamina_events::{Event, Miss, Printer, Stop, Stream};

use super::plain::{Json, Plain, Quiet};
use super::style::Palette;
use super::terminal::Terminal;
use super::{Renderer, Streams};

/// A writer that both streams share, as they do on a terminal.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    fn streams(&self) -> Streams {
        Streams {
            stdout: Box::new(self.clone()),
            stderr: Box::new(self.clone()),
            stdout_is_terminal: true,
            stderr_is_terminal: true,
        }
    }

    /// What was written since the last call, escape sequences made visible.
    fn take(&self) -> String {
        let written = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(written).unwrap().replace('\u{1b}', "␛").replace('\r', "␍")
    }
}

impl Write for Paper {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn queued(step: u64, title: &str) -> Event {
    Event::StepQueued { step, title: title.to_owned() }
}

fn log(step: u64, line: &str) -> Event {
    Event::StepLog { step, line: line.to_owned() }
}

fn output(stream: Stream, data: &str) -> Event {
    Event::ContainerOutput { container: "ta-1".to_owned(), stream, data: data.into(), printer: Printer::default() }
}

fn failed(step: u64) -> Event {
    Event::StepFailed {
        step,
        message: "the command exited with status 2".to_owned(),
        tail: (1..=60).map(|line| format!("line {line}")).collect(),
        log: Some("/store/logs/7.log".to_owned()),
        shell: Some("modal shell im-0123".to_owned()),
        hint: Some("install `gcc`".to_owned()),
    }
}

/// A build with a cached base, two steps that run and one that another process makes.
fn build() -> Vec<Event> {
    vec![
        queued(1, "debian_slim(python_version=\"3.11\")"),
        queued(2, "apt_install(\"git\", \"curl\")"),
        queued(3, "uv_pip_install(\"pandas==2.2.3\", \"pydantic>=2\")"),
        queued(4, "run_commands(\"make\")"),
        Event::StepCached { step: 1, bytes: 54_525_952 },
        Event::StepStarted { step: 2, miss: Miss::Changed { parts: vec!["packages".to_owned()] } },
        log(2, "\u{1b}[1mGet:1\u{1b}[0m git"),
        Event::StepFinished { step: 2, seconds: 4.12, bytes_new: 32_505_856, bytes_shared: 12_582_912 },
        Event::StepStarted { step: 3, miss: Miss::New },
        Event::StepProgress { step: 3, what: "downloading".to_owned(), done: 3, total: 12 },
        Event::StepFinished { step: 3, seconds: 61.0, bytes_new: 900, bytes_shared: 0 },
        Event::StepWaiting { step: 4 },
        Event::StepCached { step: 4, bytes: 10 },
        Event::ImageBuilt { image: "im-0123".to_owned(), seconds: 66.0, cached: false, remaining: 0 },
    ]
}

fn feed(renderer: &mut dyn Renderer, events: &[Event]) {
    for (index, event) in events.iter().enumerate() {
        renderer.event(event, Duration::from_millis(500 * index as u64)).unwrap();
    }
}

fn terminal(paper: &Paper) -> Terminal {
    Terminal::new(paper.streams(), Palette::PLAIN, Box::new(|| (100, 24)))
}

#[test]
fn plain_numbers_every_line_and_closes_with_a_table() {
    let paper = Paper::default();
    feed(&mut Plain::new(paper.streams()), &build());
    insta::assert_snapshot!(paper.take());
}

#[test]
fn json_is_one_versioned_object_per_line() {
    let (paper, stdout) = (Paper::default(), Paper::default());
    let mut events = build();
    events.truncate(7);
    events.push(output(Stream::Stdout, "hello\n"));
    events.push(output(Stream::Stderr, "careful\n"));
    feed(&mut Json::new(Streams { stdout: Box::new(stdout.clone()), ..paper.streams() }), &events);
    assert_eq!(stdout.take(), "hello\n");
    let written = paper.take();
    for line in written.lines() {
        assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap()["version"], 1);
    }
    insta::assert_snapshot!(written);
}

#[test]
fn quiet_shows_program_output_and_failures_alone() {
    let paper = Paper::default();
    let mut renderer = Quiet::new(paper.streams(), Palette::PLAIN);
    feed(&mut renderer, &build());
    assert_eq!(paper.take(), "");
    feed(&mut renderer, &[queued(5, "run_commands(\"false\")"), output(Stream::Stdout, "hello"), failed(5)]);
    insta::assert_snapshot!(paper.take());
}

#[test]
fn terminal_scrolls_settled_rows_above_live_ones() {
    let paper = Paper::default();
    feed(&mut terminal(&paper), &build());
    insta::assert_snapshot!(paper.take());
}

#[test]
fn terminal_rows_are_clipped_and_bounded() {
    let paper = Paper::default();
    let mut renderer = Terminal::new(paper.streams(), Palette::PLAIN, Box::new(|| (40, 5)));
    for step in 1..=6 {
        let title = "run_commands(\"a very long command that does not fit\")";
        feed(&mut renderer, &[queued(step, title), Event::StepStarted { step, miss: Miss::New }]);
        feed(&mut renderer, &[log(step, "a long line of output that does not fit either")]);
    }
    paper.take();
    renderer.tick(Duration::from_secs(75)).unwrap();
    let frame = paper.take();
    assert!(frame.lines().all(|line| line.trim_start_matches("␍␛[3A␛[J").chars().count() <= 40), "{frame}");
    insta::assert_snapshot!(frame);
}

#[test]
fn terminal_never_tears_program_output() {
    let paper = Paper::default();
    let mut renderer = terminal(&paper);
    feed(&mut renderer, &[queued(1, "env()"), Event::StepStarted { step: 1, miss: Miss::Forced }]);
    paper.take();
    feed(&mut renderer, &[output(Stream::Stdout, "half a ")]);
    renderer.tick(Duration::from_secs(1)).unwrap();
    assert_eq!(paper.take(), "␍␛[1A␛[Jhalf a ");
    feed(&mut renderer, &[output(Stream::Stdout, "line\n")]);
    assert_eq!(paper.take(), "line\n⠋ env()  0.0s\n");
}

#[test]
fn terminal_reports_a_failure_with_its_last_lines() {
    let paper = Paper::default();
    let mut renderer = terminal(&paper);
    feed(
        &mut renderer,
        &[
            queued(1, "run_commands(\"make\")"),
            Event::StepStarted { step: 1, miss: Miss::New },
            log(1, "make: nothing to do"),
            failed(1),
        ],
    );
    renderer.finish().unwrap();
    insta::assert_snapshot!(paper.take());
}

#[test]
fn an_input_that_runs_again_is_one_line() {
    let retried = Event::CallRetried {
        function: "f".to_owned(),
        attempt: 1,
        of: 4,
        seconds: 1.0,
        cause: "raised an exception".to_owned(),
    };
    let events = [output(Stream::Stdout, "half a line"), retried];
    let line = "`f` failed (attempt 1 of 4): raised an exception; trying again in 1.0s\n";
    let paper = Paper::default();
    feed(&mut Plain::new(paper.streams()), &events[1..]);
    assert_eq!(paper.take(), line);
    feed(&mut terminal(&paper), &events);
    assert_eq!(paper.take(), format!("half a line\n{line}"));
    feed(&mut Json::new(paper.streams()), &events[1..]);
    let object: serde_json::Value = serde_json::from_str(&paper.take()).unwrap();
    assert_eq!((&object["event"], &object["of"]), (&"call_retried".into(), &4.into()));
    feed(&mut Quiet::new(paper.streams(), Palette::PLAIN), &events[1..]);
    assert_eq!(paper.take(), "");
}

#[test]
fn a_call_that_waits_for_itself_is_shown_by_all() {
    let path = ["f", "g", "f"].map(str::to_owned).to_vec();
    let events = [Event::CallStuck { path, max_containers: 1 }];
    let lines = "warning: a call of function `f` waits for itself (`f` → `g` → `f`): all containers that `f` may have \
                 (max_containers=1) run inputs that wait for it, so it can only time out\n\
                 hint: raise `max_containers` of `f`, or do not wait for the result in the container\n";
    let paper = Paper::default();
    feed(&mut Plain::new(paper.streams()), &events);
    assert_eq!(paper.take(), lines);
    feed(&mut Quiet::new(paper.streams(), Palette::PLAIN), &events);
    assert_eq!(paper.take(), lines);
    feed(&mut terminal(&paper), &events);
    assert_eq!(paper.take(), lines);
}

#[test]
fn a_build_from_the_cache_is_silent() {
    let events = [
        queued(1, "debian_slim()"),
        Event::StepCached { step: 1, bytes: 10 },
        Event::ImageBuilt { image: "im-0123".to_owned(), seconds: 0.01, cached: true, remaining: 0 },
    ];
    let paper = Paper::default();
    feed(&mut Plain::new(paper.streams()), &events);
    feed(&mut terminal(&paper), &events);
    assert_eq!(paper.take(), "");
}

#[test]
fn a_build_after_a_failed_one_closes_as_usual() {
    let paper = Paper::default();
    let mut renderer = Plain::new(paper.streams());
    let start = |step| Event::StepStarted { step, miss: Miss::New };
    feed(&mut renderer, &[queued(1, "one()"), queued(2, "two()"), start(1), failed(1)]);
    paper.take();
    feed(
        &mut renderer,
        &[
            queued(3, "one()"),
            start(3),
            Event::StepFinished { step: 3, seconds: 1.0, bytes_new: 1, bytes_shared: 0 },
            Event::ImageBuilt { image: "im-0123".to_owned(), seconds: 1.0, cached: false, remaining: 0 },
        ],
    );
    assert!(paper.take().ends_with("Built im-0123 in 1.0s: 1 of 1 steps ran, 1 B new in the store\n"));
}

#[test]
fn images_that_were_built_together_have_one_closing_line() {
    let paper = Paper::default();
    let mut renderer = Plain::new(paper.streams());
    let built =
        |image: &str, remaining| Event::ImageBuilt { image: image.to_owned(), seconds: 1.0, cached: false, remaining };
    let start = |step| Event::StepStarted { step, miss: Miss::New };
    let finish = |step| Event::StepFinished { step, seconds: 1.0, bytes_new: 1, bytes_shared: 0 };
    feed(&mut renderer, &[queued(1, "one()"), queued(2, "two()"), start(1), start(2), finish(1), finish(2)]);
    paper.take();
    feed(&mut renderer, &[built("im-1", 1)]);
    assert_eq!(paper.take(), "");
    feed(&mut renderer, &[built("im-2", 0)]);
    assert!(paper.take().ends_with("Built im-1, im-2 in 1.0s: 2 of 2 steps ran, 2 B new in the store\n"));
}

#[test]
fn a_step_that_is_stopped_leaves_no_live_row() {
    let start = |step| Event::StepStarted { step, miss: Miss::New };
    let stop = |step, cause| Event::StepStopped { step, cause };
    let events = [
        queued(1, "debian_slim()"),
        Event::StepCached { step: 1, bytes: 10 },
        queued(2, "run_commands(\"make\")"),
        stop(2, Stop::Damaged),
        queued(3, "debian_slim()"),
        start(3),
        stop(3, Stop::Cancelled),
    ];
    let paper = Paper::default();
    feed(&mut Plain::new(paper.streams()), &events);
    let plain = paper.take();
    let mut renderer = terminal(&paper);
    feed(&mut renderer, &events);
    assert!(!renderer.is_live());
    insta::assert_snapshot!(format!("{plain}---\n{}", paper.take()));
}
