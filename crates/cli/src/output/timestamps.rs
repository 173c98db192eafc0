//! `--timestamps`: the time in front of every line that containers print.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use lamina_events::{Event, Sink, Stream};

/// Puts what `clock` says in front of the lines of containers' output on its way to `sink`.
pub(crate) fn stamped(sink: Sink, clock: impl Fn() -> String + Send + Sync + 'static) -> Sink {
    // Streams of containers that stopped in the middle of a line.
    let unfinished = Mutex::<HashSet<(String, Stream)>>::default();
    Sink::new(move |event| {
        let Event::ContainerOutput { container, stream, data, printer } = event else {
            return sink.emit(event);
        };
        let mut unfinished = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (container.clone(), stream);
        let mut begins = !unfinished.contains(&key);
        let mut stamped = Vec::with_capacity(data.len() + 64);
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            if begins {
                stamped.extend_from_slice(format!("{} ", clock()).as_bytes());
            }
            stamped.extend_from_slice(piece);
            begins = piece.ends_with(b"\n");
        }
        if begins {
            unfinished.remove(&key);
        } else {
            unfinished.insert(key);
        }
        sink.emit(Event::ContainerOutput { container, stream, data: stamped, printer });
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lamina_events::Printer;

    use super::*;

    #[test]
    fn every_line_has_its_time_however_it_comes() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&seen);
        let sink = Sink::new(move |event| {
            if let Event::ContainerOutput { data, .. } = event {
                copy.lock().unwrap().extend(data);
            }
        });
        let stamped = stamped(sink, || "12:00".to_owned());
        let print = |container: &str, stream, data: &str| {
            stamped.emit(Event::ContainerOutput {
                container: container.to_owned(),
                stream,
                data: data.into(),
                printer: Printer::default(),
            });
        };
        print("ta-1", Stream::Stdout, "one\ntw");
        print("ta-1", Stream::Stdout, "o\n\n");
        print("ta-1", Stream::Stderr, "three");
        print("ta-2", Stream::Stderr, "four\n");
        print("ta-1", Stream::Stderr, "!\n");
        let text = String::from_utf8(seen.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "12:00 one\n12:00 two\n12:00 \n12:00 three12:00 four\n!\n");
    }
}
